"""What comes from anywhere and is damaged: one clear error, nothing written outside the folder that was asked for."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from artifacts_support import build_package, small_onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwnas.artifacts.given import onnx_given
from hwnas.artifacts.manifest import MANIFEST, parse_manifest
from hwnas.artifacts.package import open_package, pack, unpack
from hwnas.artifacts.recheck import VerifyReport, verify_artifact
from hwnas.config import load_run_config
from hwnas.devices.models import ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import HwnasError
from hwnas.targets import Target, find_device

TARGET = Target("local", "onnxruntime", "fp32")
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EXAMPLE = Path(__file__).parents[2] / "examples" / "digits-cpu.yaml"

CUTS = st.tuples(st.floats(0.0, 1.0), st.binary(min_size=0, max_size=12), st.integers(0, 40))
"""Where (share of the length), what is put there, and how many bytes go."""


def damaged(data: bytes, cuts: list[tuple[float, bytes, int]]) -> bytes:
    for share, put, gone in cuts:
        at = int(share * len(data))
        data = data[:at] + put + data[at + gone :]
    return data


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_session(find_device("local")) as opened:
        yield opened


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "package"
    build_package(folder)
    return folder


@pytest.fixture(scope="module")
def archive(good: Path) -> bytes:
    return pack(good, good.parent / "package.zip").read_bytes()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refusal(action: Callable[[], object]) -> str | None:
    """Return the message of a refusal, None if there was none; anything but an error of ours breaks the test."""
    try:
        action()
    except HwnasError as error:
        return str(error)
    return None


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@MANY
@given(cuts=st.lists(CUTS, min_size=1, max_size=4))
def test_damaged_onnx_files_are_errors_or_still_run(cuts: list[tuple[float, bytes, int]], session: Session) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "mine.onnx"
        path.write_bytes(damaged(small_onnx().SerializeToString(), cuts))

        def use() -> None:
            onnx_given(path, TARGET)
            session.unload(session.load(ModelFiles(path), TARGET).handle)

        assert refusal(use) != ""
        assert everything(Path(name)) == {"mine.onnx"}


@MANY
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
def test_damaged_zips_leave_nothing_or_the_whole_package(cuts: list[tuple[float, bytes, int]], archive: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in.zip").write_bytes(damaged(archive, cuts))
        told = refusal(lambda: unpack(root / "in.zip", root / "out" / "package"))
        assert told != ""
        assert (root / "out" / "package").exists() == (told is None)
        if told is None:
            open_package(root / "out" / "package")
        assert {path.split("/")[0] for path in everything(root)} <= {"in.zip", "out"}
        assert not [path for path in everything(root) if path.endswith(".tmp")]


PARTS = [*"ab./~ \\:\x00\n", "..", "/etc", "C:"]
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map("".join)


@MANY
@given(name=NAMES, data=st.binary(max_size=20))
def test_members_of_any_name_never_leave_the_folder(name: str, data: bytes, good: Path) -> None:
    raw = json.loads((good / MANIFEST).read_text())
    raw["files"][1]["path"] = name
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr(MANIFEST, json.dumps(raw))
        for entry in raw["files"]:
            source = good / entry["path"]
            inside = entry["path"] != name and source.is_file()
            info = zipfile.ZipInfo(entry["path"].replace("\x00", "") or "x")
            info.filename = info.orig_filename = entry["path"]
            target.writestr(info, source.read_bytes() if inside else data)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "deep" / "deeper").mkdir(parents=True)
        (root / "in.zip").write_bytes(stream.getvalue())
        assert refusal(lambda: unpack(root / "in.zip", root / "deep" / "deeper" / "out")) != ""
        assert {path for path in everything(root) if not path.startswith("deep/deeper/out")} == {
            "in.zip",
            "deep",
            "deep/deeper",
        }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@MANY
@given(key=st.integers(0, 200), value=JSON, nested=st.booleans())
def test_manifests_with_any_value_in_any_place_are_errors_or_valid(
    key: int, value: Any, nested: bool, good: Path
) -> None:
    raw = json.loads((good / MANIFEST).read_text())
    names = sorted(raw)
    name = names[key % len(names)]
    if nested and isinstance(raw[name], dict) and raw[name]:
        inner = sorted(raw[name])
        raw[name][inner[key % len(inner)]] = value
    else:
        raw[name] = value
    told = refusal(lambda: parse_manifest(json.dumps(raw), "here"))
    assert told is None or "here" in told


@settings(MANY, max_examples=12)
@given(cuts=st.lists(CUTS, min_size=1, max_size=2), which=st.integers(0, 10))
def test_verify_of_a_damaged_package_fails_and_leaves_it_as_it_was(
    cuts: list[tuple[float, bytes, int]], which: int, good: Path, session: Session
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(good, Path(name) / "package"))
        files = sorted(path for path in folder.iterdir() if path.is_file())
        path = files[which % len(files)]
        before = path.read_bytes()
        path.write_bytes(damaged(before, cuts))
        changed, names = path.read_bytes(), everything(folder)
        reports: list[VerifyReport] = []
        told = refusal(lambda: reports.append(verify_artifact(folder, session=session, rounds=3)))
        assert told != ""
        if path.name != MANIFEST:
            assert [report.passed for report in reports] == [changed == before]
        assert path.read_bytes() == changed
        assert everything(folder) == names


@MANY
@given(cuts=st.lists(CUTS, min_size=1, max_size=3))
def test_damaged_run_files_are_errors_or_valid(cuts: list[tuple[float, bytes, int]], place: Path) -> None:
    path = place / "run.yaml"
    path.write_bytes(damaged(EXAMPLE.read_bytes(), cuts))
    told = refusal(lambda: load_run_config(path))
    assert told is None or "run.yaml" in told


@MANY
@given(key=st.integers(0, 200), value=JSON)
def test_run_files_with_any_value_in_any_place_are_errors_or_valid(key: int, value: Any, place: Path) -> None:
    raw = yaml.safe_load(EXAMPLE.read_text())
    names = [
        (section, name)
        for section in sorted(raw)
        for name in (sorted(raw[section]) if isinstance(raw[section], dict) else [None])
    ]
    section, name = names[key % len(names)]
    if name is None:
        raw[section] = value
    else:
        raw[section][name] = value
    (place / "run.yaml").write_text(yaml.safe_dump(raw))
    told = refusal(lambda: load_run_config(place / "run.yaml"))
    assert told is None or "run.yaml" in told
