"""A real sshd on this machine with throw-away keys: this machine as a device behind ssh, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hwnas.errors import MissingRuntimeError
from hwnas.targets import Device

PROGRAMS = ("sshd", "ssh", "ssh-keygen")
INSTALL = "apt-get install openssh-server openssh-client"
_WAIT_S = 20.0


def program(name: str) -> str:
    """Return the path of a program of OpenSSH.

    Raises:
        MissingRuntimeError: It is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingRuntimeError(name, INSTALL)
    return found


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _WAIT_S
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not come up (exit status {process.poll()}): {log.read_text(errors='replace')[-800:]}")


@contextlib.contextmanager
def ssh_device(folder: Path, home: Path, *, banner: str = "") -> Iterator[Device]:
    """Start a server of its own; yields this machine as the device ``box`` behind it.

    Args:
        folder: Where keys and settings are written; exists.
        home: Home folder of who logs in; exists.
        banner: What every login prints on standard output before anything else.

    Raises:
        MissingRuntimeError: OpenSSH is not installed.
        RuntimeError: The server did not come up.
    """
    sshd, keygen, _ = (program(name) for name in ("sshd", "ssh-keygen", "ssh"))
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    login = folder / "login.sh"
    greeting = f'echo "{banner}"\n' if banner else ""
    login.write_text(f'#!/bin/sh\n{greeting}export HOME="{home}"\ncd\neval "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"PidFile none\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nForceCommand {login}\n"
    )
    (folder / "ssh_config").write_text(
        f"Host box\n  HostName 127.0.0.1\n  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking accept-new\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a server of root wants to separate its privileges
    with (folder / "log").open("wb") as log:
        command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
    try:
        _wait_for(port, process, folder / "log")
        options = {"port": str(port), "identity_file": str(folder / "user"), "config": str(folder / "ssh_config")}
        yield Device("box", "ssh", address="box", python=sys.executable, options=options)
    finally:
        process.terminate()
        process.wait(timeout=10)


def children_called(name: str, parent: int) -> list[int]:
    """Return the direct children of a process whose program has that name (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue
        title, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        if entry.name.isdigit() and title == name and int(rest[1]) == parent and rest[0] != "Z":
            found.append(int(entry.name))
    return found
