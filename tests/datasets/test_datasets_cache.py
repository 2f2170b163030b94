"""The cache of decoded images: a hit equals a fresh decode, damage is seen, changes of the source are seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.config import DataSection
from hwnas.datasets.data import ImageData, load_data, open_source
from hwnas.datasets.pool import Pool, load_pool
from hwnas.errors import StorageError

MakeFolder = Callable[..., Path]


def section_of(path: Path, size: int = 12) -> DataSection:
    return DataSection(source=f"imagefolder:{path}", image_size=size)


def pool_of(path: Path, size: int = 12) -> Pool:
    return load_pool(open_source(section_of(path, size)), size)


def same(one: ImageData, other: ImageData) -> bool:
    pairs = [(one.split(name), other.split(name)) for name in one.sizes]
    equal = all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)
    return equal and (one.digest, one.mean, one.std) == (other.digest, other.mean, other.std)


def in_memory(data: ImageData) -> ImageData:
    """Copy the splits' images out of the memory-mapped file, which the test is about to harm."""
    for name in data.sizes:
        assert len(data.split(name).images)
    return data


def cached(cache: Path) -> Path:
    (folder,) = [path.parent for path in cache.rglob("pool.json")]
    return folder


def test_a_hit_equals_a_fresh_decode(make_folder: MakeFolder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = section_of(make_folder(["a", "b"], 9))
    fresh = in_memory(load_data(section))
    monkeypatch.setattr("hwnas.datasets.folders.decode_parallel", lambda *_: pytest.fail("decoded again"))
    assert same(fresh, load_data(section))
    assert isinstance(pool_of(Path(section.source.partition(":")[2])).images, np.memmap)


@pytest.mark.parametrize("name", ["images-3.npy", "labels.npy", "parts.npy", "sums.npy", "pool.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "empty"])
def test_damage_is_seen_and_mended(make_folder: MakeFolder, cache: Path, name: str, harm: str) -> None:
    section = section_of(make_folder(["a", "b"], 9))
    fresh = in_memory(load_data(section))
    victim = cached(cache) / name
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[-9] ^= 1
        victim.write_bytes(data)
    elif harm == "cut":
        victim.write_bytes(data[: len(data) // 2])
    elif harm == "empty":
        victim.write_bytes(b"")
    else:
        victim.unlink()
    assert same(fresh, load_data(section))
    json.loads((cached(cache) / "pool.json").read_text())


def test_writing_into_images_does_not_reach_the_cache(make_folder: MakeFolder, cache: Path) -> None:
    root = make_folder(["a", "b"], 9)
    pool_of(root)  # filled
    before = (cached(cache) / "images-3.npy").read_bytes()
    torch.from_numpy(pool_of(root).images).zero_()
    assert (cached(cache) / "images-3.npy").read_bytes() == before


def test_a_changed_source_is_decoded_again(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 9)
    before = pool_of(root).digest
    Image.new("RGB", (12, 12), (1, 2, 3)).save(root / "a" / "000.png")
    os.utime(root / "a" / "000.png", ns=(1, 1))
    after = pool_of(root)
    assert after.digest != before
    assert after.images[0, :, 0, 0].tolist() == [1, 2, 3]


def test_sizes_are_kept_apart(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 9)
    assert pool_of(root, 12).images.shape[-1] == 12
    assert pool_of(root, 8).images.shape[-1] == 8
    assert pool_of(root, 12).images.shape[-1] == 12


def test_gray_then_colour_leaves_one_array(make_folder: MakeFolder, cache: Path) -> None:
    root = make_folder(["a"], 9, mode="L")
    make_folder(["b"], 9, mode="RGB")
    pool = pool_of(root)
    assert pool.images.shape == (18, 3, 12, 12)
    assert (pool.images[:9, 0] == pool.images[:9, 2]).all()
    assert [path.name for path in cached(cache).glob("images-*")] == ["images-3.npy"]


def test_moments_are_those_of_the_pixels(make_folder: MakeFolder) -> None:
    pool = pool_of(make_folder(["a", "b"], 9))
    rows = np.array([0, 3, 4, 17])
    mean, std = pool.moments(rows)
    values = pool.images[rows] / 255
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_does_not_divide_by_zero(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 9)
    for path in root.rglob("*.png"):
        array = np.asarray(Image.open(path)).copy()
        array[..., 1] = 50
        Image.fromarray(array).save(path)
    data = load_data(section_of(root))
    assert data.std[1] == pytest.approx(1 / 255)
    assert torch.isfinite(data.preprocess(data.train.images, 12)).all()


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_cache(make_folder: MakeFolder, cache: Path) -> None:
    root = make_folder(["a", "b"], 40)
    program = (
        "import os, sys, hwnas.datasets.pool as pool\n"
        "pool._sums = lambda images: os._exit(9)\n"
        "from hwnas.config import DataSection\n"
        "from hwnas.datasets.data import load_data\n"
        "load_data(DataSection(source='imagefolder:' + sys.argv[1], image_size=12))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(root)], check=False, env={**os.environ})
    assert done.returncode == 9
    assert list(cache.rglob("*.partial"))
    assert not list(cache.rglob("pool.json"))
    assert sum(load_data(section_of(root)).sizes.values()) == 80
    assert not list(cache.rglob("*.partial"))


def test_a_cache_that_cannot_be_written(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write"):
        load_data(section_of(make_folder(["a", "b"], 9)))
