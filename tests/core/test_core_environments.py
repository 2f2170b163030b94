from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from hwnas.environments import conversion
from hwnas.environments.conversion import Converted, convert, workplace
from hwnas.environments.recipe import Recipe, import_folders, install, remove
from hwnas.errors import ConversionError

SCRIPT = """
import json, pathlib, sys
request = json.loads(pathlib.Path(sys.argv[1]).read_text())
log = pathlib.Path(request["log"])
log.write_text(log.read_text() + "ran\\n" if log.exists() else "ran\\n")
if request.get("fail"):
    print("the converter says why")
    sys.exit(3)
if request.get("hang"):
    import subprocess, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    log.write_text(str(child.pid))
    time.sleep(600)
if request.get("silent"):
    sys.exit(0)
text = pathlib.Path("model.txt").read_text()
pathlib.Path("model.out").write_text(text.upper())
pathlib.Path("result.json").write_text(json.dumps({"letters": len(text), "prefix": sys.prefix}))
"""

EMPTY = Recipe("empty", (), same_torch=False, size_gb=0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the environment; venv itself is real, it only holds no package besides pip."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(home))
        install(EMPTY)
    return home


@pytest.fixture
def cache(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWNAS_CACHE", str(made))
    return made


def run(tmp_path: Path, text: str = "abc", deadline_s: float = 60.0, **request: object) -> tuple[Converted, str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with workplace(script) as folder:
        (folder / "model.txt").write_text(text)
        converted = convert(EMPTY, folder, {"log": str(tmp_path / "log"), **request}, deadline_s=deadline_s)
        return converted, (folder / "model.out").read_text()


def test_a_conversion_runs_in_its_own_environment_and_leaves_no_folder(cache: Path, tmp_path: Path) -> None:
    converted, text = run(tmp_path)
    assert text == "ABC"
    assert converted.result == {"letters": 3, "prefix": str(EMPTY.folder)}
    assert not [path for path in cache.iterdir() if path.name.startswith(".converting")]


def test_the_same_conversion_is_not_run_twice_and_another_is(cache: Path, tmp_path: Path) -> None:
    for text in ("once", "once", "other"):
        assert run(tmp_path, text)[1] == text.upper()
    assert (tmp_path / "log").read_text() == "ran\n" * 2


def test_old_results_are_forgotten_where_they_take_too_much_room(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "KEPT_BYTES", 2000)
    for number in range(4):
        run(tmp_path, f"{number}" * 600)
        time.sleep(0.02)
    assert len(list((cache / conversion.KEPT).iterdir())) <= 3
    assert run(tmp_path, "3" * 600)[1]
    assert (tmp_path / "log").read_text() == "ran\n" * 4


def test_a_kept_result_that_is_not_whole_is_made_again(cache: Path, tmp_path: Path) -> None:
    run(tmp_path, "torn")
    newest = max((cache / conversion.KEPT).iterdir(), key=lambda path: path.stat().st_mtime)
    (newest / "result.json").unlink()
    for _ in range(2):
        assert run(tmp_path, "torn")[1] == "TORN"
    assert (tmp_path / "log").read_text() == "ran\n" * 2


def test_a_result_that_cannot_be_stored_whole_is_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set((cache / conversion.KEPT).iterdir())
    copyfile = shutil.copyfile

    def killed(source: Path, target: Path) -> None:
        if source.name == "result.json":
            raise KeyboardInterrupt
        copyfile(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "half")
    assert set((cache / conversion.KEPT).iterdir()) == before
    assert run(tmp_path, "half")[1] == "HALF"


def test_a_failure_names_what_was_said_and_can_be_reproduced(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="exit status 3") as caught:
        run(tmp_path, fail=True)
    message = str(caught.value)
    assert "the converter says why" in message
    script = message.rpartition("python ")[2]
    again = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 3
    assert "the converter says why" in again.stdout
    with pytest.raises(ConversionError):
        run(tmp_path, fail=True)
    assert (tmp_path / "log").read_text() == "ran\n" * 3


def test_a_script_without_a_result_is_a_failure(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="wrote no result"):
        run(tmp_path, silent=True)


def test_a_conversion_that_hangs_is_killed_with_all_it_started(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="took longer than 2 s"):
        run(tmp_path, deadline_s=2.0, hang=True)
    child = int((tmp_path / "log").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the grandchild is still alive")


def test_only_a_few_failures_are_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "KEPT_FAILURES", 2)
    for number in range(4):
        with pytest.raises(ConversionError):
            run(tmp_path, f"{number}", fail=True)
    assert len(list((cache / conversion.FAILED).iterdir())) == 2


def test_a_version_that_does_not_exist_says_how_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    nothing = Recipe("nothing", (("--no-index", "no-such-package-hwnas==1"),), same_torch=False, size_gb=0.01)
    with pytest.raises(ConversionError, match="no-such-package-hwnas") as caught:
        install(nothing)
    assert "hwnas backends install nothing" in str(caught.value)
    assert not nothing.folder.exists()
    assert not nothing.ready


def test_an_interrupted_environment_is_made_anew(cache: Path) -> None:
    (EMPTY.folder / "ready.json").rename(EMPTY.folder / "interrupted.json")
    (EMPTY.folder / "half").write_text("x")
    assert not EMPTY.ready
    install(EMPTY)
    assert EMPTY.ready
    assert not (EMPTY.folder / "half").exists()


def _make(home: str) -> None:
    os.environ["HWNAS_CACHE"] = home
    install(EMPTY)


def test_two_processes_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_make, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    assert json.loads((EMPTY.folder / "ready.json").read_text())["name"] == "empty"
    assert len([path for path in EMPTY.folder.parent.iterdir() if path.is_dir()]) == 1
    assert [folder.parents[2] for folder in import_folders()] == [EMPTY.folder]
    assert remove("empty") > 0
    assert not EMPTY.ready
    assert import_folders() == []


def test_what_another_process_makes_is_not_removed(cache: Path) -> None:
    with FileLock(f"{EMPTY.folder}.lock"), pytest.raises(ConversionError, match="being made by another process"):
        remove("empty")
    assert EMPTY.ready


def test_of_one_name_workers_see_the_environment_made_last(cache: Path) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for mark, age in (("0", 1), ("z", 1)):
        packages = EMPTY.folder.with_name(f"empty-{mark}") / f"lib/{version}/site-packages"
        packages.mkdir(parents=True)
        ready = packages.parents[2] / "ready.json"
        ready.write_text(json.dumps({"pip": []}))
        os.utime(ready, (age, age))
    try:
        assert [folder.parents[2] for folder in import_folders()] == [EMPTY.folder]
    finally:
        for mark in "0z":
            shutil.rmtree(EMPTY.folder.with_name(f"empty-{mark}"))
