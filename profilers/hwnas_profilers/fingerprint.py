"""What machine this is: identity (a mismatch refuses a table) and context (a mismatch warns)."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

from hwnas_profilers import affinity, protocol, timing
from hwnas_profilers.counting import CLOCK, COUNTS

ISA_FLAGS = frozenset(
    "sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 "
    "amx_bf16 neon asimd asimdhp asimddp fphp i8mm bf16 sve sve2 sme rvv v".split()
)
"""Processor flags that decide which kernels a runtime picks."""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return ""


def parse_cpuinfo(text: str) -> Tuple[str, List[str]]:
    """Return (model, relevant ISA flags) of the text of ``/proc/cpuinfo``.

    Virtual machines often blank the model's name, so vendor, family and model number stand beside it.
    """
    fields: Dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or fields.get("isa") or "").split())
    name = fields.get("model name") or fields.get("Model") or fields.get("Hardware") or ""
    parts = [
        f"{label} {fields[key]}"
        for key, label in (
            ("vendor_id", ""),
            ("cpu family", "family"),
            ("model", "model"),
            ("CPU implementer", "implementer"),
            ("CPU part", "part"),
            ("uarch", "uarch"),
        )
        if fields.get(key)
    ]
    detail = " ".join(part.strip() for part in parts)
    return (f"{name} ({detail})" if detail and name else name or detail), sorted(flags & ISA_FLAGS)


def _ask_sysctl(key: str) -> str:
    try:
        return subprocess.run(
            ["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _cpu() -> Tuple[str, List[str]]:
    if sys.platform.startswith("linux"):
        model, flags = parse_cpuinfo(_read("/proc/cpuinfo"))
        board = _read("/proc/device-tree/model")
        return (f"{model}, {board}" if board else model) or platform.machine(), flags
    if sys.platform == "darwin":
        features = (_ask_sysctl("machdep.cpu.features") + " " + _ask_sysctl("machdep.cpu.leaf7_features")).lower()
        return _ask_sysctl("machdep.cpu.brand_string") or platform.processor(), sorted(
            set(features.split()) & ISA_FLAGS
        )
    return platform.processor() or platform.machine(), []


def identity(simulated: bool = False) -> Dict[str, Any]:
    """Return what a number cannot be carried away from.

    Args:
        simulated: The worker offers nothing but the simulated runtime, which is the same on every machine.
    """
    if simulated:
        return {"cpu_model": "simulated", "isa": [], "arch": "simulated", "protocol": protocol.VERSION}
    model, flags = _cpu()
    found = {"cpu_model": model, "isa": flags, "arch": platform.machine(), "protocol": protocol.VERSION}
    return {**found, "counts": CLOCK.unit} if COUNTS else found


def _container() -> str:
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    found = re.search(r"docker|kubepods|lxc|containerd|libpod", _read("/proc/1/cgroup"))
    return found.group(0) if found else ""


def _virtual_machine() -> str:
    if "hypervisor" in _read("/proc/cpuinfo"):
        return _read("/sys/class/dmi/id/sys_vendor") or "yes"
    return ""


def _memory_bytes() -> int:
    found = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    if found:
        return int(found.group(1)) * 1024
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 0


def context() -> Dict[str, Any]:
    """Return what may change a number: kernel, governor, memory, container, Python, cores."""
    cpu = "/sys/devices/system/cpu"
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "governor": _read(f"{cpu}/cpu0/cpufreq/scaling_governor"),
        "boost": _read(f"{cpu}/cpufreq/boost"),
        "smt": _read(f"{cpu}/smt/active"),
        "memory_bytes": _memory_bytes(),
        "container": _container(),
        "virtual_machine": _virtual_machine(),
        "cpu_quota": _read("/sys/fs/cgroup/cpu.max"),
        "python": platform.python_version(),
        "cores": os.cpu_count() or 0,
        "allowed_cores": affinity.ALLOWED or [],
    }


def limits() -> List[str]:
    """Return what cannot be done or seen here, as sentences."""
    found: List[str] = []
    if COUNTS:
        return found
    if affinity.ALLOWED is None:
        found.append("No thread affinity on this system: measurements are grade C.")
    if timing.pressure_us() is None:
        found.append("No pressure-stall information on this system: contention by other work is not seen.")
    if timing.involuntary_switches() is None:
        found.append("No count of involuntary context switches on this system: preemption is not seen.")
    return found
