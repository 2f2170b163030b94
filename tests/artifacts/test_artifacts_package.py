from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
from artifacts_support import build_package, small_onnx

from hwnas import artifacts
from hwnas.artifacts.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    UPGRADES,
    manifest_schema,
    parse_manifest,
    read_manifest,
)
from hwnas.artifacts.package import open_package, pack, staging, unpack
from hwnas.artifacts.records import inside
from hwnas.artifacts.references import check_onnx_references, external_files
from hwnas.errors import ArtifactError, ModelFileError


def edit_manifest(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(raw | changes))


def test_an_intact_package_opens_and_its_manifest_survives_a_round_trip(package: Path) -> None:
    manifest = open_package(package)
    assert manifest == parse_manifest(manifest.model_dump_json(), "memory")
    assert {entry.path for entry in manifest.files} == {
        "model.onnx",
        "samples.npz",
        "verify.py",
        "infer.py",
        "runtime.py",
        "README.md",
    }
    assert manifest.kept
    assert manifest.size_bytes == (package / "model.onnx").stat().st_size


@pytest.mark.parametrize("name", ["model.onnx", "samples.npz", "verify.py", "README.md"])
def test_one_changed_byte_is_refused(package: Path, name: str) -> None:
    data = bytearray((package / name).read_bytes())
    data[len(data) // 2] ^= 1
    (package / name).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=f"{name} has sha256"):
        open_package(package)


def test_a_truncated_file_is_refused(package: Path) -> None:
    data = (package / "model.onnx").read_bytes()
    (package / "model.onnx").write_bytes(data[:-10])
    with pytest.raises(ArtifactError, match="truncated or changed"):
        open_package(package)


def test_an_absent_file_is_refused(package: Path) -> None:
    (package / "samples.npz").unlink()
    with pytest.raises(ArtifactError, match="absent"):
        open_package(package)


def test_a_file_that_nobody_checked_is_refused_but_caches_are_not(package: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "infer.pyc").write_bytes(b"x")
    open_package(package)
    (package / "numpy.py").write_text("print('mine')")
    with pytest.raises(ArtifactError, match=r"numpy\.py is not in manifest"):
        open_package(package)


def test_a_link_out_of_the_folder_is_refused(package: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    outside.write_bytes((package / "model.onnx").read_bytes())
    (package / "model.onnx").unlink()
    (package / "model.onnx").symlink_to(outside)
    with pytest.raises(ArtifactError, match="link"):
        open_package(package)


@pytest.mark.parametrize(
    "path", ["../model.onnx", "/etc/passwd", "a/../../b", "C:/x", "a\\b", "", ".", "a//b", "./a", "a\nb", "a/.."]
)
def test_paths_that_leave_the_folder_are_refused_before_any_file_is_touched(package: Path, path: str) -> None:
    raw = json.loads((package / MANIFEST).read_text())
    raw["files"][0]["path"] = path
    edit_manifest(package, files=raw["files"])
    with pytest.raises(ArtifactError, match="files"):
        read_manifest(package)
    with pytest.raises(ValueError, match="relative"):
        inside(path)


def test_a_manifest_of_another_major_version_is_refused(package: Path) -> None:
    edit_manifest(package, schema_version="2.0")
    with pytest.raises(ArtifactError, match=r"schema_version '2\.0'"):
        read_manifest(package)


def test_unknown_keys_and_damaged_manifests_are_named(package: Path, tmp_path: Path) -> None:
    edit_manifest(package, labelz=["a"])
    with pytest.raises(ArtifactError, match="did you mean 'labels'"):
        read_manifest(package)
    (package / MANIFEST).write_text('{"schema_version": "1.0", "na')
    with pytest.raises(ArtifactError, match="not JSON"):
        read_manifest(package)
    (package / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="not text"):
        read_manifest(package)
    with pytest.raises(ArtifactError, match="is no artifact"):
        read_manifest(tmp_path / "nothing")


def test_a_file_listed_twice_or_two_models_are_refused(package: Path) -> None:
    files = json.loads((package / MANIFEST).read_text())["files"]
    edit_manifest(package, files=[*files, files[0]])
    with pytest.raises(ArtifactError, match="listed once"):
        read_manifest(package)
    edit_manifest(package, files=[entry | {"role": "model"} for entry in files])
    with pytest.raises(ArtifactError, match="exactly one file"):
        read_manifest(package)


def _fail_in_staging(folder: Path) -> None:
    with staging(folder) as work:
        (work / "file").write_text("x")
        raise ArtifactError("stop")


def test_staging_renames_on_success_and_leaves_nothing_on_failure(tmp_path: Path) -> None:
    with staging(tmp_path / "made") as work:
        (work / "file").write_text("x")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "file").read_text() == "x"
    with pytest.raises(ArtifactError, match="stop"):
        _fail_in_staging(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]


def test_staging_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").write_text("keep")
    with pytest.raises(ArtifactError, match="never overwritten"), staging(tmp_path / "made") as work:
        (work / "new").write_text("x")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["old"]


def test_zip_round_trip_is_exact_and_repeatable(package: Path, tmp_path: Path) -> None:
    first, second = pack(package, tmp_path / "a.zip"), pack(package, tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()
    manifest = unpack(first, tmp_path / "unpacked")
    assert manifest == open_package(tmp_path / "unpacked")
    for entry in manifest.files:
        assert (tmp_path / "unpacked" / entry.path).read_bytes() == (package / entry.path).read_bytes()


def _zip(package: Path, path: Path, extra: list[tuple[zipfile.ZipInfo, bytes]], skip: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for file in sorted(package.iterdir()):
            if file.name != skip:
                target.write(file, file.name)
        for info, data in extra:
            target.writestr(info, data)
    return path


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("info", "match"),
    [
        (zipfile.ZipInfo("../escaped.txt"), "stay in its folder"),
        (zipfile.ZipInfo("/tmp/escaped.txt"), "stay in its folder"),
        (zipfile.ZipInfo("a/../../escaped.txt"), "stay in its folder"),
        (zipfile.ZipInfo("extra.py"), "not in manifest"),
        (_link("link.onnx"), "link or repeated"),
    ],
)
def test_unsafe_zip_members_are_refused(package: Path, tmp_path: Path, info: zipfile.ZipInfo, match: str) -> None:
    archive = _zip(package, tmp_path / "bad.zip", [(info, b"x")])
    with pytest.raises(ArtifactError, match=match):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_and_absent_zip_members_are_refused(package: Path, tmp_path: Path) -> None:
    archive = _zip(package, tmp_path / "twice.zip", [(zipfile.ZipInfo("model.onnx"), b"x")])
    with pytest.raises(ArtifactError, match="repeated"):
        unpack(archive, tmp_path / "out")
    archive = _zip(package, tmp_path / "less.zip", [], skip="samples.npz")
    with pytest.raises(ArtifactError, match="absent"):
        unpack(archive, tmp_path / "out")
    archive = _zip(package, tmp_path / "no.zip", [], skip=MANIFEST)
    with pytest.raises(ArtifactError, match="no artifact"):
        unpack(archive, tmp_path / "out")


def test_a_zip_member_larger_than_the_manifest_says_is_stopped(package: Path, tmp_path: Path) -> None:
    archive = _zip(
        package, tmp_path / "bomb.zip", [(zipfile.ZipInfo("model.onnx"), b"\0" * 10_000_000)], skip="model.onnx"
    )
    with pytest.raises(ArtifactError, match="larger than"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_zip_or_something_else_is_refused(package: Path, tmp_path: Path) -> None:
    archive = pack(package, tmp_path / "a.zip")
    data = bytearray(archive.read_bytes())
    data[len(data) // 3] ^= 0xFF
    archive.write_bytes(bytes(data))
    with pytest.raises(ArtifactError):
        unpack(archive, tmp_path / "out")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(ArtifactError, match="not a readable"):
        unpack(tmp_path / "text.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_package_is_not_packed(package: Path, tmp_path: Path) -> None:
    os.truncate(package / "model.onnx", 5)
    with pytest.raises(ArtifactError):
        pack(package, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_weights_outside_the_checked_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    manifest = build_package(folder)
    model = small_onnx()
    weights = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weights, "more.bin", 0, 144)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert external_files(folder / "model.onnx") == ["more.bin"]
    with pytest.raises(ArtifactError, match=r"more\.bin"):
        check_onnx_references(folder, manifest)
    for entry in weights.external_data:
        if entry.key == "location":
            entry.value = "../../secret.bin"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="stay in its folder"):
        external_files(folder / "model.onnx")


def test_a_manifest_of_an_older_schema_is_upgraded_step_by_step(package: Path) -> None:
    raw = json.loads((package / MANIFEST).read_text())
    del raw["resources"]
    (package / MANIFEST).write_text(json.dumps({**raw, "schema_version": "1.0"}))
    manifest = open_package(package)
    assert manifest.schema_version == SCHEMA_VERSION
    assert manifest.resources is None


def test_every_older_schema_leads_to_the_present_one() -> None:
    for version in UPGRADES:
        seen = []
        while version != SCHEMA_VERSION:
            assert version not in seen
            seen.append(version)
            version = UPGRADES[version][0]


def test_the_published_schema_is_the_one_that_is_checked() -> None:
    published = Path(__file__).parents[2] / "docs" / "manifest.schema.json"
    mend = "python -m hwnas.artifacts.manifest > docs/manifest.schema.json"
    assert json.loads(published.read_text()) == manifest_schema(), f"write it again with: {mend}"


TEMPLATES = Path(artifacts.__path__[0]) / "templates"


@pytest.mark.parametrize("script", sorted(TEMPLATES.rglob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_written_for_python_3_9_and_need_only_numpy_and_the_runtime(script: Path) -> None:
    tree = ast.parse(script.read_text(), feature_version=(3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {entry.name.partition(".")[0] for entry in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    needs = {"litert": {"ai_edge_litert"}, "executorch": {"executorch", "torch"}}
    own = needs.get(script.stem, {script.stem}) if script.parent.name == "runtimes" else {"PIL"}
    assert imported - sys.stdlib_module_names <= {"numpy", *own}


def test_a_package_without_a_runtime_script_says_what_to_use(package: Path) -> None:
    (package / "runtime.py").unlink()
    done = subprocess.run(
        [sys.executable, str(package / "infer.py"), "x.npy"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "use: hwnas verify" in done.stderr


def test_a_file_beside_verify_cannot_take_the_place_of_a_library(package: Path) -> None:
    for module in ("json", "argparse", "numpy"):
        (package / f"{module}.py").write_text("raise SystemExit('hijacked')")
    done = subprocess.run(
        [sys.executable, str(package / "verify.py")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "json.py is not in the manifest" in done.stdout
    assert "hijacked" not in done.stdout + done.stderr


def test_verify_script_without_the_runtime_says_what_to_install(package: Path) -> None:
    code = "import sys, runpy; sys.modules['onnxruntime'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(package / "verify.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install onnxruntime" in done.stderr
