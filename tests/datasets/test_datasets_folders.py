"""Folders and archives: every layout, and every way in which they can be wrong."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwnas.config import DataSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.errors import DataError

MakeFolder = Callable[..., Path]


def load(path: Path, **settings: object) -> ImageData:
    section = {"source": f"imagefolder:{path}", "image_size": 12, **settings}
    return load_data(DataSection.model_validate(section))


def pack(folder: Path, archive: Path, top: str) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as stream:
            for path in sorted(folder.rglob("*")):
                stream.write(path, f"{top}{path.relative_to(folder).as_posix()}")
    else:
        mode = {".xz": "w:xz", ".gz": "w:gz", ".bz2": "w:bz2"}.get(archive.suffix, "w")
        with tarfile.open(archive, mode) as stream:  # type: ignore[call-overload]
            for path in sorted(folder.rglob("*"), reverse=True):
                stream.add(path, f"{top}{path.relative_to(folder).as_posix()}", recursive=False)
    return archive


def test_a_folder_of_classes_keeps_every_pixel(make_folder: MakeFolder) -> None:
    root = make_folder(["cat", "dog"], 12)
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert data.name == "pictures"
    assert sum(data.sizes.values()) == 24
    stored = {images.numpy().tobytes() for name in data.sizes for images in data.split(name).images}
    files = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in root.rglob("*.png")}
    assert stored == files


def test_labels_belong_to_their_pictures(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b", "c"], 8)
    data = load(root)
    label_of = {
        np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes(): data.classes.index(path.parent.name)
        for path in root.rglob("*.png")
    }
    for name in data.sizes:
        split = data.split(name)
        for image, label in zip(split.images, split.labels, strict=True):
            assert label_of[image.numpy().tobytes()] == int(label)


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".zip"])
@pytest.mark.parametrize("top", ["", "upper/"])
def test_an_archive_equals_its_folder(make_folder: MakeFolder, tmp_path: Path, suffix: str, top: str) -> None:
    root = make_folder(["a", "b"], 6, parts=("train", "test"))
    archive = pack(root, tmp_path / f"packed{suffix}", top)
    from_folder, from_archive = load(root), load(archive)
    assert from_archive.name == "packed"
    assert from_archive.digest == from_folder.digest
    assert not list(tmp_path.glob("upper*"))


def test_a_given_test_set_stays_the_test_set(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 10, parts=("train", "test"))
    data = load(root)
    assert data.sizes["test"] == 20
    kept = {image.numpy().tobytes() for image in data.test.images}
    given = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in (root / "test").rglob("*.png")}
    assert kept == given


def test_a_validation_folder_alone_is_the_test_set(make_folder: MakeFolder) -> None:
    data = load(make_folder(["a", "b"], 10, parts=("train", "val")))
    assert data.sizes["test"] == 20
    assert data.sizes["train"] + data.sizes["validation"] + data.sizes["gate"] == 20


def test_a_validation_folder_beside_a_test_folder_is_the_validation_split(make_folder: MakeFolder) -> None:
    data = load(make_folder(["a", "b"], 10, parts=("train", "val", "test")))
    assert data.sizes["validation"] == 20
    assert data.sizes["test"] == 20
    assert data.sizes["train"] + data.sizes["gate"] == 20


def test_gray_pictures_keep_one_channel(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6, mode="L")
    assert load(root).channels == 1
    Image.new("RGB", (12, 12), (255, 0, 0)).save(root / "b" / "999.png")
    data = load(root)
    assert data.channels == 3
    assert sum(data.sizes.values()) == 13


def test_larger_pictures_are_cut_square_and_antialiased(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6)
    stripes = np.zeros((48, 96, 3), dtype=np.uint8)
    stripes[:, 24:72:2] = 255  # the centre square: columns that only an antialiased resize turns into gray
    stripes[:, :24] = 7
    Image.fromarray(stripes).save(root / "a" / "wide.png")
    data = load(root)
    images = [image for name in data.sizes for image in data.split(name).images]
    flat = [image for image in images if int(image.max()) - int(image.min()) < 30]
    assert len(flat) == 1
    assert abs(float(flat[0].float().mean()) - 127.5) < 6


def test_hidden_files_are_left_out(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6)
    (root / "a" / "._000.png").write_bytes(b"resource fork")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "x.png").write_bytes(b"")
    (root / "notes.txt").write_text("not a picture")
    assert sum(load(root).sizes.values()) == 12


def test_sixteen_bit_pictures_keep_their_upper_bits(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6, mode="L")
    Image.fromarray(np.full((12, 12), 0xAB12, dtype=np.uint16)).save(root / "a" / "deep.png")
    data = load(root)
    assert data.channels == 1
    values = [set(image.flatten().tolist()) for name in data.sizes for image in data.split(name).images]
    assert {0xAB} in values


def test_absent_path() -> None:
    with pytest.raises(DataError, match=r"nowhere.*does not exist.*data\.source"):
        load(Path("nowhere"))


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "data.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match=r"data\.rar is neither a folder nor an archive \(\.tar"):
        load(tmp_path / "data.rar")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no pictures.*expected train/CLASS"):
        load(tmp_path / "empty")


def test_an_empty_class_folder(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6)
    (root / "void").mkdir()
    with pytest.raises(DataError, match="class folder 'void' holds no pictures"):
        load(root)


def test_an_empty_class_folder_in_a_part(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6, parts=("train", "test"))
    (root / "train" / "void").mkdir()
    with pytest.raises(DataError, match="class folder 'train/void' holds no pictures"):
        load(root)


def test_one_class_only(make_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match=r"has 1 class \(lonely\)"):
        load(make_folder(["lonely"], 6))


def test_a_class_with_a_single_picture(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6)
    make_folder(["single"], 1)
    with pytest.raises(DataError, match="class 'single' has a single picture"):
        load(root)


def test_a_picture_outside_the_classes(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6)
    Image.new("RGB", (12, 12)).save(root / "stray.png")
    with pytest.raises(DataError, match=r"'stray\.png' lies in no class folder"):
        load(root)


def test_a_class_that_only_the_test_set_has(make_folder: MakeFolder) -> None:
    root = make_folder(["a", "b"], 6, parts=("train", "test"))
    make_folder(["new"], 3, parts=("test",))
    with pytest.raises(DataError, match=r"class 'new' of 'test/new/000\.png' has no training pictures"):
        load(root)


def test_a_damaged_picture_is_named_and_nothing_is_cached(make_folder: MakeFolder, cache: Path) -> None:
    root = make_folder(["a", "b"], 6)
    victim = root / "b" / "003.png"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:60])
    with pytest.raises(DataError, match=r"b/003\.png cannot be read as a picture .*Mend or remove"):
        load(root)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    victim.write_bytes(whole)
    assert sum(load(root).sizes.values()) == 12


def test_a_damaged_picture_in_an_archive_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(["a", "b"], 6)
    (root / "a" / "001.png").write_bytes(b"nonsense")
    archive = pack(root, tmp_path / "bad.tar.gz", "")
    with pytest.raises(DataError, match=r"bad\.tar\.gz: a/001\.png cannot be read as a picture"):
        load(archive)


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".zip", ".tar"])
def test_a_cut_archive(make_folder: MakeFolder, tmp_path: Path, suffix: str) -> None:
    archive = pack(make_folder(["a", "b"], 6), tmp_path / f"cut{suffix}", "")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DataError, match=f"cut{suffix}"):
        load(archive)


EVIL = ["../out.png", "/abs/out.png", "a/../../out.png", "C:/out.png", "a\\..\\..\\out.png"]


def add_to_tar(archive: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    with tarfile.open(archive, "a") as stream:
        member.size = len(content)
        stream.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", EVIL)
def test_a_tar_member_that_leaves_the_folder(make_folder: MakeFolder, tmp_path: Path, name: str) -> None:
    archive = pack(make_folder(["a", "b"], 6), tmp_path / "evil.tar", "")
    add_to_tar(archive, tarfile.TarInfo(name), b"x")
    with pytest.raises(DataError, match=r"leaves the folder\. Refused"):
        load(archive)


@pytest.mark.parametrize("name", EVIL)
def test_a_zip_member_that_leaves_the_folder(make_folder: MakeFolder, tmp_path: Path, name: str) -> None:
    archive = pack(make_folder(["a", "b"], 6), tmp_path / "evil.zip", "")
    with zipfile.ZipFile(archive, "a") as stream:
        stream.writestr(name, b"x")
    with pytest.raises(DataError, match=r"leaves the folder\. Refused"):
        load(archive)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_tar_are_refused(make_folder: MakeFolder, tmp_path: Path, kind: bytes) -> None:
    archive = pack(make_folder(["a", "b"], 6), tmp_path / "links.tar", "")
    member = tarfile.TarInfo("a/link.png")
    member.type, member.linkname = kind, "/etc/hostname"
    add_to_tar(archive, member)
    with pytest.raises(DataError, match=r"'a/link\.png' is a link or a special file"):
        load(archive)


def test_links_in_a_zip_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    archive = pack(make_folder(["a", "b"], 6), tmp_path / "links.zip", "")
    with zipfile.ZipFile(archive, "a") as stream:
        member = zipfile.ZipInfo("a/link.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        stream.writestr(member, "/etc/hostname")
    with pytest.raises(DataError, match=r"'a/link\.png' is a link"):
        load(archive)


def test_relative_paths_start_at_the_run_file(make_folder: MakeFolder, tmp_path: Path) -> None:
    make_folder(["a", "b"], 6)
    section = DataSection(source="imagefolder:pictures", image_size=12)
    assert sum(load_data(section, base=tmp_path).sizes.values()) == 12
    rooted = DataSection(source="imagefolder:pictures", root=str(tmp_path), image_size=12)
    assert load_data(rooted).digest == load_data(section, base=tmp_path).digest
