"""Child processes with a deadline, ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Failure|Interrupt)\b")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process started with ``start_new_session`` and all it started, and wait a little for its end."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5.0)


def run_logged(
    command: Sequence[str], log: Path, deadline_s: float, *, environment: Mapping[str, str], folder: Path | None = None
) -> int | None:
    """Run a command with all it prints appended to ``log``.

    Args:
        command: Command line.
        log: File that its output is appended to.
        deadline_s: Seconds after which it is killed.
        environment: Its whole environment.
        folder: Where it runs.

    Returns:
        Its exit status, or None if it ran out of time.

    Raises:
        OSError: It cannot be started, or the log cannot be written.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=max(deadline_s, 0.0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            kill_group(process)


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log that are not empty, long ones cut."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join([line[:400] for line in text.splitlines() if line.strip()][-lines:]) or "(it printed nothing)"


def reason(log: Path) -> str:
    """Return the last exception that a log of a Python program ends with, else its last lines."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    raised = [line for line in text.splitlines() if _RAISED.match(line)]
    return raised[-1][:1000] if raised else tail(log)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would make another Python import the packages of this one."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
