"""How the agent is started on a device: command lines, and pushing the zipapp where there is none."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from hwnas.devices.zipapp import cached_agent, plugin_runtimes
from hwnas.environments.recipe import import_folders
from hwnas.errors import ConfigError, DeviceError
from hwnas.processes import kill_group
from hwnas.targets import Device

SSH_OPTIONS = ("port", "identity_file", "config", "connect_timeout")
_FOLDER = "$HOME/.cache/hwnas"


@dataclass(frozen=True)
class Launch:
    """How to start the worker.

    Attributes:
        argv: Command line.
        environment: Variables on top of this process's.
        shares_files: The worker sees this machine's files, so that none needs uploading.
        agent_sha256: Digest of the zipapp it runs from, if it does.
    """

    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    shares_files: bool = False
    agent_sha256: str | None = None


def ssh_argv(device: Device) -> list[str]:
    """Return the ``ssh`` command line up to the destination; the user's own configuration is honoured.

    Raises:
        ConfigError: An option that this transport does not have.
    """
    unknown = sorted(device.options.keys() - set(SSH_OPTIONS))
    if unknown:
        raise ConfigError(
            f"device {device.name}: unknown ssh option {', '.join(unknown)}; known: {', '.join(SSH_OPTIONS)}. "
            "Anything else belongs into your ssh configuration."
        )
    options = device.options
    argv = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={options.get('connect_timeout', '20')}"]
    argv += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    if "config" in options:
        argv += ["-F", os.path.expanduser(options["config"])]
    if "port" in options:
        argv += ["-p", options["port"]]
    if "identity_file" in options:
        argv += ["-i", os.path.expanduser(options["identity_file"]), "-o", "IdentitiesOnly=yes"]
    return [*argv, "--", device.address]


def remote_argv(device: Device, words: Sequence[str]) -> list[str]:
    """Return the command line that runs ``words`` on an ``ssh`` or ``command`` device."""
    if device.transport == "ssh":
        return [*ssh_argv(device), shlex.join(words)]
    return [*device.command, *words]


def _call(device: Device, script: str, deadline_s: float, stdin: Path | None = None) -> str:
    """Run a shell script on the device and return what it printed."""
    argv = remote_argv(device, ["sh", "-c", script])
    # files, not pipes: a connection that ssh keeps open in the background would keep a pipe open too
    with open(stdin or os.devnull, "rb") as source, TemporaryFile() as stdout, TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(argv, stdin=source, stdout=stdout, stderr=stderr, start_new_session=True)
        except OSError as error:
            raise DeviceError(
                f"device {device.name}: there is no program {argv[0]!r} on this machine to reach it with ({error.strerror})."
            ) from error
        try:
            status = process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired as error:
            kill_group(process)
            raise DeviceError(
                f"device {device.name} did not answer within {deadline_s:g} s. Is it on? Try: {_by_hand(device)}"
            ) from error
        answer, said = (_read_back(stream) for stream in (stdout, stderr))
    if status != 0:
        raise DeviceError(
            f"device {device.name} cannot be reached or prepared (exit status {status}): {said.strip()[-800:] or 'no message'}. "
            f"Try by hand: {_by_hand(device)}"
        )
    return answer


def _read_back(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(1 << 20).decode("utf-8", "replace")


def _by_hand(device: Device) -> str:
    return shlex.join(remote_argv(device, ["echo", "hello"]))


def push_agent(device: Device, agent: Path, sha256: str, deadline_s: float) -> str:
    """Put the zipapp into ``~/.cache/hwnas`` of the device unless it is there; returns its path there.

    The file is named by its content, written under another name and renamed, so that a broken upload is never run.

    Raises:
        DeviceError: The device cannot be reached or the file cannot be written.
    """
    size = agent.stat().st_size
    name = f"{_FOLDER}/agent-{sha256}.pyz"
    present = f'f="{name}"; [ -f "$f" ] && [ "$(wc -c < "$f")" -eq {size} ]'
    answer = _call(device, f'{present} && echo "hwnas-agent:$f" || echo hwnas-agent-missing', deadline_s)
    if "hwnas-agent:" not in answer:
        push = (
            f'mkdir -p "{_FOLDER}" && t="{_FOLDER}/.upload-$$" && cat > "$t" && mv "$t" "{name}" && '
            f'{present} && echo "hwnas-agent:$f"'
        )
        answer = _call(device, push, deadline_s, stdin=agent)
    for line in answer.splitlines():
        if line.startswith("hwnas-agent:"):
            return line.removeprefix("hwnas-agent:")
    raise DeviceError(
        f"device {device.name} did not keep the agent; it said {answer[-400:]!r}. Is its home folder full?"
    )


def _local_launch(device: Device) -> Launch:
    """Start the installed package; with a foreign interpreter or plug-in runtimes, the zipapp.

    What converters' environments hold is offered behind this interpreter's own packages.
    """
    environment = {"PYTHONSAFEPATH": "1"}  # a file torch.py in the current folder must not be imported
    words = ["--only", "simulated"] if device.transport == "simulated" else []
    if not words and not device.python:
        words = [word for folder in import_folders() for word in ("--packages", str(folder))]
    plugins = plugin_runtimes()
    if device.python or plugins:
        agent, sha256 = cached_agent(plugins)
        argv = (device.python or sys.executable, str(agent), *words)
        return Launch(argv, environment, shares_files=True, agent_sha256=sha256)
    return Launch((sys.executable, "-m", "hwnas_profilers", *words), environment, shares_files=True)


def prepare(device: Device, deadline_s: float) -> Launch:
    """Make the device ready for its worker and return how to start it.

    Raises:
        DeviceError: It cannot be reached.
        ConfigError: Its options are unknown.
    """
    if device.transport in ("local", "simulated"):
        return _local_launch(device)
    agent, sha256 = cached_agent()
    path = push_agent(device, agent, sha256, deadline_s)
    argv = remote_argv(device, [device.python or "python3", path])
    return Launch(tuple(argv), agent_sha256=sha256)
