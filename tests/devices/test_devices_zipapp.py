"""The agent as one file, and runtimes that plug-ins add to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_simulated  # type: ignore[import-not-found]

from hwnas.devices.channel import Channel
from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import open_session
from hwnas.devices.transport import Launch
from hwnas.devices.zipapp import build_agent, cached_agent, plugin_runtimes
from hwnas.errors import ConfigError, DeviceError
from hwnas.files import sha256_file
from hwnas.targets import Device, Target
from hwnas_profilers import protocol

NOISY = '''
"""A runtime that prints where it can, as many do."""
import os
import subprocess
import sys

from hwnas_profilers.runtimes.simulated import Simulated


class Noisy(Simulated):
    name = "noisy"

    def load(self, path, spec):
        print("loading", flush=True)
        os.write(1, b"written to descriptor 1\\n")
        subprocess.run([sys.executable, "-c", "import sys; print('child', sys.stdin.read())"], check=True)
        return super().load(path, spec)


RUNTIME = Noisy()
'''


def foreign_site(folder: Path) -> Path:
    """Return a folder with numpy and nothing of hwnas, to stand for a device's site-packages."""
    packages = Path(np.__file__).parent.parent
    folder.mkdir()
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():
            (folder / name).symlink_to(packages / name)
    return folder


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (build_agent(tmp_path / name) for name in ("one.pyz", "two.pyz"))
    assert sha256_file(one) == sha256_file(two)
    assert cached_agent({})[1] == sha256_file(one)


def test_a_damaged_cached_agent_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    path, sha256 = cached_agent({})
    path.write_bytes(path.read_bytes()[:-100])
    assert cached_agent({}) == (path, sha256)
    assert sha256_file(path) == sha256


def test_the_agent_runs_alone_without_hwnas(tmp_path: Path) -> None:
    agent = build_agent(tmp_path / "profilers.pyz")
    site = foreign_site(tmp_path / "site")
    start = f"import sys, runpy; sys.path.insert(0, {str(site)!r}); sys.argv[:] = [{str(agent)!r}]; "
    check = "import importlib.util as u; assert not u.find_spec('hwnas') and not u.find_spec('hwnas_profilers'); "
    code = start + check + f"runpy.run_path({str(agent)!r}, run_name='__main__')"
    requests = protocol.encode_frame({"cmd": "hello", "id": 7}) + protocol.encode_frame({"cmd": "bye", "id": 8})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], input=requests, capture_output=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    frame = protocol.read_frame(protocol_stream(done.stdout))
    assert frame is not None
    assert frame.header["id"] == 7
    assert frame.header["agent_sha256"] == sha256_file(agent)
    assert frame.header["runtimes"]["simulated"]["available"]
    assert not frame.header["runtimes"]["onnxruntime"]["available"]
    assert frame.header["runtimes"]["onnxruntime"]["install"] == "pip install onnxruntime"


def protocol_stream(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_a_person_who_starts_the_agent_is_told_what_it_is(tmp_path: Path) -> None:
    agent = build_agent(tmp_path / "profilers.pyz")
    done = subprocess.run([sys.executable, str(agent), "--help"], capture_output=True, text=True, check=True)
    assert "started by hwnas" in done.stdout
    done = subprocess.run(
        [sys.executable, str(agent)], input=b"GET / HTTP/1.1\r\n\r\n", capture_output=True, check=False
    )
    assert done.returncode == 4
    assert b"not a frame" in done.stderr or b"without a frame" in done.stderr


def test_what_a_runtime_prints_breaks_no_frame(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    agent = build_agent(tmp_path / "agent.pyz", {"noisy": tmp_path / "noisy.py"})
    files = write_simulated(tmp_path / "a.sim.json")
    channel = Channel(Launch((sys.executable, str(agent))))
    try:
        sha256 = sha256_file(files.main)
        channel.send({"cmd": "put", "id": 1}, [files.main.read_bytes()], 20.0)
        assert channel.receive(20.0).header["id"] == 1
        entry = {"name": "a.sim.json", "sha256": sha256}
        load = {"cmd": "load", "handle": "m", "runtime": "noisy", "precision": "fp32", "threads": 1, "batch": 1}
        channel.send({**load, "id": 2, "files": [entry]}, [], 20.0)
        reply = channel.receive(20.0).header
        assert "failure" not in reply
        assert reply["runtime"] == "noisy"
    finally:
        channel.close()
    assert "written to descriptor 1" in channel.said()
    assert "child" in channel.said()


def test_an_installed_plug_in_is_pushed_with_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "plugged"
    (package / "noisy_plugin").mkdir(parents=True)
    (package / "noisy_plugin" / "__init__.py").write_text("raise_if_imported_twice = True\n")
    (package / "noisy_plugin" / "device.py").write_text(NOISY)
    info = package / "noisy_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hwnas.runtimes]\nnoisy = noisy_plugin.device\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    assert plugin_runtimes() == {"noisy": package / "noisy_plugin" / "device.py"}
    assert "noisy_plugin.device" not in sys.modules
    files = write_simulated(tmp_path / "a.sim.json")
    with open_session(Device("local"), deadline_s=30.0) as session:
        assert session.hello().runtimes["noisy"].available
        handle = session.load(files, Target("local", "noisy", "fp32")).handle
        assert session.burst_round([handle], BurstSpec(min_runs=4))[0].failure is None


def test_a_plug_in_cannot_replace_a_built_in_module(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("")
    for name in ("base", "../../evil", "simulated"):
        with pytest.raises(ConfigError, match="name of its own"):
            build_agent(tmp_path / "agent.pyz", {name: tmp_path / "x.py"})


def test_names_that_leave_the_models_folder_are_refused(tmp_path: Path) -> None:
    agent = build_agent(tmp_path / "agent.pyz")
    channel = Channel(Launch((sys.executable, str(agent))))
    try:
        for number, name in enumerate(("../evil", "/etc/evil", "a\\b", "..", "")):
            load = {"cmd": "load", "handle": "m", "runtime": "simulated", "precision": "fp32", "threads": 1, "batch": 1}
            channel.send({**load, "id": number, "files": [{"name": name, "sha256": "0" * 64}]}, [], 20.0)
            assert channel.receive(20.0).header["failure"][0] == "load_failed"
        channel.send({"cmd": "no such command", "id": 99}, [], 20.0)
        assert "does not know" in channel.receive(20.0).header["failure"][1]
    finally:
        channel.close()


def test_a_foreign_interpreter_gets_the_zipapp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    with open_session(Device("local", python=sys.executable), deadline_s=30.0) as session:
        assert "simulated" in session.hello().runtimes
        assert list((tmp_path / "agents").glob("agent-*.pyz"))


def test_an_interpreter_that_is_not_there_or_is_no_python_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be started"):
        open_session(Device("local", python=str(tmp_path / "no-python")))
    with pytest.raises(DeviceError, match="did not answer"):
        open_session(Device("local", python="/bin/cat"), deadline_s=5.0)
    script = tmp_path / "old"
    script.write_text("#!/bin/sh\necho 'Python 2.7 is too old' >&2\nexit 9\n")
    script.chmod(0o755)
    with pytest.raises(DeviceError, match=r"exit status 9.*Python 2\.7 is too old"):
        open_session(Device("local", python=str(script)), deadline_s=5.0)


def test_a_missing_extra_file_of_a_model_is_named(tmp_path: Path) -> None:
    files = write_simulated(tmp_path / "a.sim.json")
    with (
        open_session(Device("sim", transport="simulated")) as session,
        pytest.raises(DeviceError, match=r"weights\.bin does not exist"),
    ):
        session.load(ModelFiles(files.main, (tmp_path / "weights.bin",)), Target("sim", "simulated", "fp32"))
