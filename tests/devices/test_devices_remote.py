"""Devices behind ssh (a real server on the loopback) and behind a command prefix."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_simulated  # type: ignore[import-not-found]

from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import open_session
from hwnas.devices.transport import remote_argv, ssh_argv
from hwnas.errors import ConfigError, DeviceError, MissingRuntimeError
from hwnas.files import sha256_file
from hwnas.targets import Device, Target
from hwnas.testing.sshd import free_port, program, ssh_device

BANNER = "Welcome to this machine; 3 updates are available."


@dataclass(frozen=True)
class Server:
    device: Device
    home: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own with throw-away keys; every login prints a banner on standard output."""
    home = tmp_path_factory.mktemp("device home")  # the space is meant
    try:
        with ssh_device(tmp_path_factory.mktemp("sshd"), home, banner=BANNER) as device:
            yield Server(device, home)
    except MissingRuntimeError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def test_a_device_behind_ssh_measures_like_a_local_one(server: Server, nets: dict[str, ModelFiles]) -> None:
    pytest.importorskip("onnxruntime")
    image = {"input": np.random.default_rng(5).standard_normal((1, 3, 24, 24)).astype(np.float32)}
    outputs = []
    for device in (server.device, Device("local")):
        with open_session(device, deadline_s=60.0) as session:
            handle = session.load(nets["int8"], Target(device.name, "onnxruntime", "int8")).handle
            outputs.append(session.run(handle, image)["output"])
            burst = session.burst_round([handle], BurstSpec(target_ms=2.0, min_runs=3))[0]
            assert burst.failure is None
            assert len(burst.samples) >= 3
            assert session.kernels(handle, runs=2)
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_the_agent_is_pushed_once_under_the_name_of_its_content(server: Server) -> None:
    cache = server.home / ".cache" / "hwnas"
    shutil.rmtree(cache, ignore_errors=True)
    with open_session(server.device, deadline_s=60.0):
        (agent,) = cache.iterdir()
    assert agent.name == f"agent-{sha256_file(agent)}.pyz"
    written = agent.stat().st_mtime_ns
    with open_session(server.device, deadline_s=60.0):
        pass
    assert agent.stat().st_mtime_ns == written
    agent.write_bytes(agent.read_bytes()[:100])  # a broken upload
    with open_session(server.device, deadline_s=60.0) as session:
        assert session.hello().runtimes["simulated"].available
    assert agent.name == f"agent-{sha256_file(agent)}.pyz"


def test_an_agent_of_the_right_size_but_other_content_is_not_trusted(server: Server) -> None:
    with open_session(server.device, deadline_s=60.0):
        pass
    (agent,) = (server.home / ".cache" / "hwnas").iterdir()
    data = bytearray(agent.read_bytes())
    data[2:22] = b"/usr/bin/env  python"
    agent.write_bytes(bytes(data))
    with pytest.raises(DeviceError, match="damaged"):
        open_session(server.device, deadline_s=60.0)
    agent.unlink()


def test_faults_and_a_killed_connection_are_survived_over_ssh(server: Server, tmp_path: Path) -> None:
    target = Target("box", "simulated", "fp32")
    with open_session(server.device, deadline_s=8.0) as session:
        good = session.load(write_simulated(tmp_path / "good.sim.json"), target).handle
        bad = session.load(write_simulated(tmp_path / "bad.sim.json", crash="burst"), target).handle
        bursts = session.burst_round([bad, good])
        assert bursts[0].failure is not None
        assert bursts[0].failure[0] == "crashed"
        assert bursts[1].failure is None
        channel = session._connection.channel
        assert channel is not None
        os.kill(channel.process_id, signal.SIGKILL)
        session.burst_round([good])
        assert session.burst_round([good])[0].failure is None
        assert session.restarts == 2


def test_a_device_that_is_off_or_refuses_is_explained(server: Server, tmp_path: Path) -> None:
    closed = replace(server.device, options={**server.device.options, "port": str(free_port())})
    with pytest.raises(DeviceError, match=r"(?s)cannot be reached.*Connection refused.*Try by hand: ssh"):
        open_session(closed, deadline_s=20.0)
    subprocess.run([program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    stranger = replace(server.device, options={**server.device.options, "identity_file": str(tmp_path / "other")})
    with pytest.raises(DeviceError, match="Permission denied"):
        open_session(stranger, deadline_s=20.0)


def test_a_device_without_that_python_is_explained(server: Server) -> None:
    with pytest.raises(DeviceError, match="python9"):
        open_session(replace(server.device, python="python9"), deadline_s=20.0)


def test_the_ssh_command_line_honours_options_and_refuses_unknown_ones() -> None:
    argv = ssh_argv(Device("pi", "ssh", address="pi@rack", options={"port": "2222"}))
    assert argv[0] == "ssh"
    assert argv[argv.index("-p") + 1] == "2222"
    assert argv[-2:] == ["--", "pi@rack"]
    assert (
        remote_argv(Device("pi", "ssh", address="pi"), ["sh", "-c", "echo 'a b'"])[-1]
        == """sh -c 'echo '"'"'a b'"'"''"""
    )
    with pytest.raises(ConfigError, match="pasword"):
        ssh_argv(Device("pi", "ssh", address="pi", options={"pasword": "x"}))


def test_a_command_prefix_reaches_a_device(tmp_path: Path) -> None:
    wrapper = tmp_path / "into the box"
    wrapper.write_text(f'#!/bin/sh\necho "$#" >> "{tmp_path}/calls"\necho "entering the box"\nexec "$@"\n')
    wrapper.chmod(0o755)
    device = Device(
        "boxed", "command", command=(str(wrapper), "env", f"HOME={tmp_path}", "FOO=1"), python=sys.executable
    )
    with open_session(device, deadline_s=30.0) as session:
        files = write_simulated(tmp_path / "a.sim.json")
        handle = session.load(files, Target("boxed", "simulated", "fp32")).handle
        files.main.unlink()  # it was uploaded, not shared
        assert session.burst_round([handle])[0].failure is None
    assert len(list((tmp_path / ".cache" / "hwnas").glob("agent-*.pyz"))) == 1
    assert len((tmp_path / "calls").read_text().splitlines()) == 3  # look, push, start


def test_a_command_prefix_that_does_not_exist_is_explained(tmp_path: Path) -> None:
    device = Device("boxed", "command", command=(str(tmp_path / "absent"),))
    with pytest.raises(DeviceError, match="no program"):
        open_session(device)
    with pytest.raises(DeviceError, match="exit status 1"):
        open_session(Device("boxed", "command", command=("false",)))
    with pytest.raises(DeviceError, match="did not answer within"):
        open_session(Device("boxed", "command", command=("sh", "-c", "sleep 60")), deadline_s=1.0)
