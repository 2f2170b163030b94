"""Digits, Fashion-MNIST files, torchvision names, data sets by import path; and what is said when they cannot be used."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import hwnas  # noqa: F401  (lets torchvision import beside a CPU torch)
from hwnas.config import DataSection
from hwnas.datasets.data import load_data
from hwnas.errors import DataError


def test_digits_from_end_to_end() -> None:
    data = load_data(DataSection(source="digits", image_size=8))
    assert (data.name, data.channels, len(data.classes)) == ("digits", 1, 10)
    assert sum(data.sizes.values()) == 1797
    raw = {np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images}
    assert {image.numpy().tobytes() for image in data.test.images} <= raw
    features = [next(data.split(name).batches(5000, 8)) for name in ("train", "test")]
    (train, train_labels), (test, test_labels) = [(x.flatten(1).numpy(), y.numpy()) for x, y in features]
    model = LogisticRegression(max_iter=500).fit(train, train_labels)
    assert model.score(test, test_labels) > 0.93


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "fashion"
    folder.mkdir()
    for stem, count in (("train", 100), ("t10k", 30)):
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return folder


def test_fashion_mnist_files(fashion: Path) -> None:
    data = load_data(DataSection(source=f"fashion-mnist:{fashion}", image_size=28))
    assert data.sizes["test"] == 30
    assert sum(data.sizes.values()) == 130
    assert data.channels == 1
    assert data.classes[9] == "Ankle boot"
    by_root = load_data(DataSection(source="fashion-mnist", root=str(fashion), image_size=28))
    assert by_root.digest == data.digest


def test_absent_fashion_mnist_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load_data(DataSection(source=f"fashion-mnist:{tmp_path}"))


def test_damaged_fashion_mnist(fashion: Path) -> None:
    path = fashion / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a gzipped IDX file"):
        load_data(DataSection(source=f"fashion-mnist:{fashion}"))
    path.write_bytes(gzip.compress(b"\0\0\x0d\x03 floats"))
    with pytest.raises(DataError, match="is not an IDX file of bytes"):
        load_data(DataSection(source=f"fashion-mnist:{fashion}"))
    write_idx(path, np.zeros((99, 28, 28)))
    with pytest.raises(DataError, match="one label for each 28 x 28 picture"):
        load_data(DataSection(source=f"fashion-mnist:{fashion}"))


@pytest.mark.parametrize("source", ["cifar", "imagefolder:", "torchvision:", "a b:c", "digits:8"])
def test_unknown_sources_list_the_known_ones(source: str) -> None:
    with pytest.raises(DataError, match=r"expected digits, fashion-mnist\[:FOLDER\], imagefolder"):
        load_data(DataSection(source=source))


def test_torchvision_by_name(fashion: Path, tmp_path: Path) -> None:
    raw = tmp_path / "tv" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in fashion.iterdir():
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    data = load_data(DataSection(source="torchvision:MNIST", root="tv", image_size=28), base=tmp_path)
    files = load_data(DataSection(source=f"fashion-mnist:{fashion}", image_size=28))
    assert data.name == "MNIST"
    assert data.sizes == files.sizes
    assert (data.test.images == files.test.images).all()


def test_torchvision_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR10 cannot be opened in .*data\.download: true"):
        load_data(DataSection(source="torchvision:CIFAR10", root=str(tmp_path)))


def test_torchvision_unknown_name() -> None:
    with pytest.raises(DataError, match=r"no data set 'CIFAR11'\. Did you mean 'CIFAR10'"):
        load_data(DataSection(source="torchvision:CIFAR11"))


def test_torchvision_that_needs_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"EMNIST has no training part under its own settings.*pkg\.mod:function"):
        load_data(DataSection(source="torchvision:EMNIST", root=str(tmp_path)))


MODULE = """
import numpy as np, torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

class Items(Dataset):
    classes = ["zero", "one", "two"]
    def __init__(self, make, count=30, label=lambda i: i % 3):
        self.make, self.count, self.label = make, count, label
    def __len__(self): return self.count
    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        return self.make(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)), self.label(i)

def pil(): return Items(Image.fromarray)
def array(): return Items(lambda a: a)
def channels_first(): return Items(lambda a: a.transpose(2, 0, 1))
def tensor(): return Items(lambda a: torch.from_numpy(a).permute(2, 0, 1))
def floats(): return Items(lambda a: torch.from_numpy(a).permute(2, 0, 1) / 255)
def pair(): return Items(lambda a: a), Items(lambda a: a, 12)
def gray(): return Items(lambda a: a[:, :, 0])
def tensors(): return TensorDataset(torch.zeros(20, 1, 9, 9), torch.arange(20) % 2)
def normalised(): return Items(lambda a: torch.from_numpy(a).float() / 100 - 1)
def wide(): return Items(lambda a: a.astype(np.int64) * 7)
def vector(): return Items(lambda a: a.ravel())
def names(): return Items(lambda a: a, 30, lambda i: "cat")
def halves(): return Items(lambda a: a, 30, lambda i: 0.5)
def one(): return Items(lambda a: a, 30, lambda i: 0)
def rare(): return Items(lambda a: a, 30, lambda i: int(i == 7))
def stream(): return type("Stream", (IterableDataset,), {"__iter__": lambda self: iter(())})()
def fails(): raise OSError("no such share")
def empty(): return Items(lambda a: a, 0)
value = 3
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    name = f"own_data_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def load(module: str, function: str, base: Path) -> object:
    return load_data(DataSection(source=f"{module}:{function}", image_size=9), base=base)


@pytest.mark.parametrize("kind", ["array", "channels_first", "tensor", "floats"])
def test_arrays_and_tensors_equal_pictures(module: str, tmp_path: Path, kind: str) -> None:
    expected = load_data(DataSection(source=f"{module}:pil", image_size=9), base=tmp_path)
    found = load_data(DataSection(source=f"{module}:{kind}", image_size=9), base=tmp_path)
    assert found.digest == expected.digest
    assert found.classes == ("zero", "one", "two")
    first = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)))
    assert any(
        (image.numpy() == first.transpose(2, 0, 1)).all() for n in found.sizes for image in found.split(n).images
    )


def test_a_train_test_pair(module: str, tmp_path: Path) -> None:
    data = load_data(DataSection(source=f"{module}:pair", image_size=9), base=tmp_path)
    assert data.sizes["test"] == 12
    assert sum(data.sizes.values()) == 42


def test_gray_arrays_and_tensor_datasets(module: str, tmp_path: Path) -> None:
    assert load_data(DataSection(source=f"{module}:gray", image_size=9), base=tmp_path).channels == 1
    data = load_data(DataSection(source=f"{module}:tensors", image_size=9), base=tmp_path)
    assert (data.channels, data.classes) == (1, ("0", "1"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("normalised", r"item 0 .*must lie in \[0, 1\]; leave normalising to hwnas"),
        ("wide", r"item 0 .*integer pixels must lie in \[0, 255\]"),
        ("vector", r"item 0 .*array of shape \(243,\)"),
        ("names", "item 0 is not a usable"),
        ("halves", r"label 0\.5 is not a whole number"),
        ("one", "has 1 class; a classifier needs at least two"),
        ("rare", "class 'one' has a single image"),
        ("stream", "expected a torch.utils.data.Dataset with a length"),
        ("fails", r"failed \(OSError: no such share\)"),
        ("empty", "holds no images"),
        ("value", "is not a function but int"),
        ("absent", "cannot be imported"),
    ],
)
def test_data_sets_that_cannot_be_used(module: str, tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(module, function, tmp_path)


def test_a_module_that_does_not_exist() -> None:
    with pytest.raises(DataError, match="'no_such_module_here:f' cannot be imported"):
        load_data(DataSection(source="no_such_module_here:f"))
