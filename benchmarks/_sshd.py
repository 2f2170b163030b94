"""A real sshd on this machine with throw-away keys, for benchmarks of what happens to a link."""

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

from hwnas.targets import Device


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        sys.exit(f"{name} is not installed; on Debian: apt-get install openssh-server openssh-client")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"sshd did not come up (exit status {process.poll()})")


@contextlib.contextmanager
def ssh_device(folder: Path, name: str = "box") -> Iterator[Device]:
    """Start a server in ``folder``; yields this machine as a device behind ssh, with a home folder of its own."""
    home = folder / "home"
    home.mkdir(parents=True)
    for key in ("host", "user"):
        subprocess.run([_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    login = folder / "login.sh"
    login.write_text(f'#!/bin/sh\nexport HOME="{home}"\ncd\neval "$SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    port = _free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"PidFile none\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nForceCommand {login}\n"
    )
    (folder / "ssh_config").write_text(
        f"Host {name}\n  HostName 127.0.0.1\n  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking accept-new\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    arguments = [_program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=log)
    try:
        _wait(port, process)
        options = {"port": str(port), "identity_file": str(folder / "user"), "config": str(folder / "ssh_config")}
        yield Device(name, "ssh", address=name, python=sys.executable, options=options)
    finally:
        process.terminate()
        process.wait(timeout=10)


def children_called(name: str, parent: int) -> list[int]:
    """Return the direct children of a process whose program has that name."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            text = (entry / "stat").read_text()
        except (OSError, ValueError):
            continue
        program, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        if entry.name.isdigit() and program == name and int(rest[1]) == parent and rest[0] != "Z":
            found.append(int(entry.name))
    return found
