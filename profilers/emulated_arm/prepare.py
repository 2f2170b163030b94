"""An ARM processor to profile where there is none: qemu-user, a Debian for arm64, runtimes, and a counter of instructions.

    python profilers/emulated_arm/prepare.py FOLDER
    hwnas devices add emulated-arm --command FOLDER/run
    hwnas profile --target emulated-arm/onnxruntime-fp32 --space S

What is measured there are executed ARM instructions (unit ``instructions``), never time: an emulator has no cycles. The number
repeats to about a part in a thousand, whatever else the machine does. FOLDER gets about 400 MB. Needs Linux, root or fakeroot, a C compiler
and Debian's packages ``qemu-user`` and ``debootstrap``; packages come from Debian and PyPI.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE.parents[1] / "constraints.txt"
PROGRAMS = {"qemu-aarch64": "qemu-user", "debootstrap": "debootstrap", "dpkg": "dpkg", "cc": "gcc"}
PACKAGES = ("python3-minimal", "libpython3-stdlib", "python3", "libstdc++6", "libgomp1")
SUITE, PYTHON = "bookworm", "3.11"
RUNTIMES = ("onnxruntime", "numpy")
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28, 31, 34, 35)))
CPU = "cortex-a72"
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
"""What Linux says of a Cortex-A72. qemu before 8.1 shows the guest the host's ``/proc/cpuinfo``, which ARM runtimes cannot read."""

RUN = """#!/bin/sh
# Runs python3 on the emulated processor, with a count of its instructions, and anything else on this machine.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
case ${{1##*/}} in python*) ;; *) exec "$@" ;; esac
shift
counter=$(mktemp) || exit 1
exec 9<>"$counter"
rm "$counter"
export HWNAS_INSTRUCTION_COUNTER=/proc/self/fd/9
exec qemu-aarch64 -L "$here/root" -cpu {cpu} -plugin "$here/libcounter.so,into=/proc/self/fd/9" \\
  -E PYTHONHOME="$here/root/usr" -E PYTHONPATH="$here/site" -E PYTHONNOUSERSITE=1 -E PYTHONHASHSEED=0 \\
  "$here/root/usr/bin/python{python}" "$@"
"""


class PreparationError(Exception):
    """What is missing or did not work, and how to mend it."""


def say(text: str) -> None:
    """Tell what is being done."""
    print(text, file=sys.stderr, flush=True)


def call(argv: Sequence[str], mend: str) -> None:
    """Run a program quietly.

    Raises:
        PreparationError: It failed; its last words and ``mend`` are told.
    """
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise PreparationError(f"{argv[0]} failed: {done.stdout.strip()[-1200:] or 'no message'}\n{mend}")


def pinned(name: str) -> str:
    """Return a requirement with the version this checkout is tested with."""
    found = re.search(rf"^{re.escape(name)}==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(0) if found else name


def unpack_root(folder: Path, work: Path) -> None:
    """Unpack Debian's arm64 packages of a Python; nothing of them is run or configured."""
    root = work / "root"
    call(
        [
            "debootstrap",
            "--arch=arm64",
            "--foreign",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            SUITE,
            str(root),
        ],
        "It needs root (or fakeroot) and Debian's archive; see its message above.",
    )
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        call(["dpkg", "-x", str(package), str(root)], "The package is broken; run this program again.")
    shutil.rmtree(root / "var/cache/apt/archives")
    (root / "proc").mkdir(exist_ok=True)
    cores = "".join(
        f"processor\t: {core}\nBogoMIPS\t: 100.00\nFeatures\t: {FEATURES}\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
        for core in range(2)
    )
    (root / "proc/cpuinfo").write_text(f"{cores}Hardware\t: qemu-user {CPU}\n", encoding="ascii")
    online = root / "sys/devices/system/cpu"
    online.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (online / name).write_text("0-1\n", encoding="ascii")
    root.rename(folder / "root")


def unpack_runtimes(folder: Path, work: Path) -> None:
    """Unpack the arm64 wheels of the runtimes and what they need."""
    wheels, site = work / "wheels", work / "site"
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    call(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", PYTHON, *platforms, "--dest", str(wheels), *map(pinned, RUNTIMES)),
        ],
        "The wheels come from PyPI; is it reachable?",
    )
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.unpack_archive(wheel, site, "zip")
    site.rename(folder / "site")


def build_counter(folder: Path, work: Path) -> None:
    """Compile the counter."""
    library = work / "libcounter.so"
    call(
        ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "counter.c")],
        "On Debian: apt-get install gcc libc6-dev",
    )
    library.rename(folder / library.name)


def prepare(folder: Path) -> None:
    """Make the device in ``folder``; what is there already is kept.

    Raises:
        PreparationError: A program is missing or failed; nothing half-made is left.
    """
    if "," in str(folder):
        raise PreparationError(f"qemu cuts {folder} at the comma; choose another folder.")
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        raise PreparationError(f"{', '.join(missing)} is missing; on Debian: apt-get install {' '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / ".work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    steps = {"root": unpack_root, "site": unpack_runtimes, "libcounter.so": build_counter}
    try:
        for name, step in steps.items():
            if not (folder / name).exists():
                say(f"making {name}")
                step(folder, work)
        script = work / "run"
        script.write_text(RUN.format(cpu=CPU, python=PYTHON), encoding="utf-8")
        script.chmod(0o755)
        script.rename(folder / "run")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    call(
        [str(folder / "run"), "python3", "-c", "import numpy, onnxruntime"],
        f"The emulated Python cannot import its runtimes; remove {folder} and run this program again.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a device; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the device is made")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    try:
        prepare(folder)
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    say(f"ready; add it with: hwnas devices add emulated-arm --command {shlex.quote(shlex.quote(str(folder / 'run')))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
