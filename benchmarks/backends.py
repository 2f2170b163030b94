"""What every backend makes of known networks: does it export, load, compute the same, how large is it, how fast here.

    python benchmarks/backends.py                # all cells that are not there yet, then the table
    python benchmarks/backends.py --stage files  # only the files (may run beside other work)
    python benchmarks/backends.py --readme       # write the table into README.md

Networks are torchvision's, with random weights from a fixed seed (none can be downloaded here), batch normalisation set on real
pictures: scikit-learn's two photographs, cut at random. int8 is calibrated on such cuts as well and compared on others; what int8
costs in accuracy is measured on trained networks elsewhere. Every cell is kept when it is there; latencies are measured by
the protocol of the project on this machine, one thread, batch 1.

Results: ``backends.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.datasets import load_sample_images

import hwnas
from hwnas import registry
from hwnas.artifacts.parity import compare_outputs, run_images, torch_outputs
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.models import ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import HwnasError, MeasurementFailure
from hwnas.files import read_json, write_json
from hwnas.latency.measuring import measure_model
from hwnas.latency.protocol import Protocol
from hwnas.targets import Target, find_device

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- backends: written by benchmarks/backends.py --readme -->", "<!-- end of backends -->"

NETWORKS = (
    "mobilenet_v3_small",
    "resnet18",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "regnet_y_400mf",
)
SIDE = 224
CALIBRATION, COMPARED = 32, 8
SKIPPED = ("simulated",)
ORDER = ("onnxruntime", "openvino", "litert", "executorch", "ncnn", "torch", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Cell:
    """One network on one runtime in one precision.

    Attributes:
        exports: Whether files were made; else ``problem`` says why not.
        loads: Whether the runtime opened them.
        relative_l2: Distance to torch, worst picture.
        cosine: Cosine to torch, worst picture.
        size_bytes: Of all files.
        latency_ms: Median with its interval, once measured.
    """

    network: str
    target: str
    exports: bool = False
    loads: bool = False
    problem: str = ""
    seconds: float = 0.0
    relative_l2: float | None = None
    cosine: float | None = None
    size_bytes: int | None = None
    provider: str = ""
    latency_ms: tuple[float, float, float] | None = None
    grade: str = ""

    @property
    def key(self) -> str:
        """Name of the cell in the results."""
        return f"{self.network} {self.target}"


def pictures(count: int, seed: int) -> NDArray[np.float32]:
    """Return random square cuts of two photographs, normalised, ``[count, 3, SIDE, SIDE]``."""
    photographs = load_sample_images().images
    rng = np.random.default_rng(seed)
    cuts = []
    for index in range(count):
        picture = photographs[index % len(photographs)]
        top, left = (int(rng.integers(0, size - SIDE)) for size in picture.shape[:2])
        cuts.append(picture[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1))
    images = np.stack(cuts).astype(np.float32) / 255.0
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return np.ascontiguousarray((images - mean) / std)


def network_of(name: str) -> torch.nn.Module:
    """Return a network of torchvision with random weights, its statistics set on pictures, in evaluation mode."""
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    module.train()
    with torch.no_grad():
        for start in range(0, CALIBRATION, 16):
            module(torch.from_numpy(pictures(CALIBRATION, 1)[start : start + 16]))
    return module.eval()


def targets() -> list[Target]:
    """Return every runtime and precision that has a backend here."""
    found = []
    for name in registry.names("backend"):
        if name not in SKIPPED:
            backend = registry.load("backend", name)
            found += [Target("local", name, precision) for precision in backend.precisions]
    return found


def made(cell: Cell, session: Session, folder: Path) -> Cell:
    """Make the files, load them, compare them with torch."""
    target = Target.parse(cell.target)
    backend = registry.load("backend", target.runtime)()
    module, start = network_of(cell.network), time.monotonic()
    calibration = pictures(CALIBRATION, 2) if target.precision == "int8" else None
    try:
        files = backend.export(
            module,
            torch.from_numpy(pictures(COMPARED, 3)),
            target.precision,
            folder,
            calibration=calibration,
            weight_bits=int8_weight_bits(session.hello().identity),
        )
    except HwnasError as error:
        return Cell(cell.network, cell.target, problem=str(error).splitlines()[0], seconds=time.monotonic() - start)
    facts = asdict(cell) | {"exports": True, "seconds": time.monotonic() - start, "size_bytes": files.size_bytes}
    try:
        loaded = session.load(files, target)
    except HwnasError as error:
        return Cell(**{**facts, "problem": str(error).splitlines()[0]})
    images = pictures(COMPARED, 3)
    found = run_images(session, loaded, images)[loaded.outputs[0].name]
    session.unload(loaded.handle)
    parity = compare_outputs(torch_outputs(module, images)[0], found, None)
    write_json(folder / "files.json", [path.name for path in files.all])
    facts |= {"loads": True, "relative_l2": parity.relative_l2, "cosine": parity.cosine, "provider": loaded.provider}
    return Cell(**facts)


def measured(cell: Cell, session: Session, folder: Path) -> Cell:
    """Measure the latency of files that were made."""
    names = read_json(folder / "files.json")
    files = ModelFiles(folder / names[0], tuple(folder / name for name in names[1:]))
    try:
        found = measure_model(session, files, Target.parse(cell.target), Protocol(rounds=20, pause_ms=20.0))
    except MeasurementFailure as failure:
        return Cell(**{**asdict(cell), "problem": str(failure)})
    if found.failure is not None:
        return Cell(**{**asdict(cell), "problem": ": ".join(found.failure)})
    return Cell(**{**asdict(cell), "latency_ms": (found.value, found.low, found.high), "grade": found.grade})


def rank(cell: Cell) -> tuple[int, str]:
    """Order cells by runtime, those that no GPU was at hand for last, then by target."""
    runtime = Target.parse(cell.target).runtime
    return (ORDER.index(runtime) if runtime in ORDER else len(ORDER), cell.target)


def table(cells: list[Cell]) -> str:
    """Return the support table in Markdown: one row per runtime and precision, one column per network."""
    cells = sorted(cells, key=rank)
    networks = [name for name in NETWORKS if any(cell.network == name for cell in cells)]
    known = {cell.key: cell for cell in cells}
    lines = [
        "| runtime, precision | worst distance to torch | " + " | ".join(networks) + " |",
        "|---|---" + "|---" * len(networks) + "|",
    ]
    for target in dict.fromkeys(cell.target for cell in cells):
        row = [known.get(f"{name} {target}") for name in networks]
        errors = [cell.relative_l2 for cell in row if cell is not None and cell.relative_l2 is not None]
        worst = f"{max(errors):.1e}" if errors else "-"
        parsed = Target.parse(target)
        lines.append(f"| {parsed.runtime} {parsed.precision} | {worst} | " + " | ".join(map(in_words, row)) + " |")
    return "\n".join(lines)


def in_words(cell: Cell | None) -> str:
    """Return what the table says of a cell: milliseconds and megabytes, or what did not work."""
    if cell is None:
        return "not tried"
    if not cell.exports:
        return "no export"
    if not cell.loads:
        return "exports, not run here"
    size = f"{(cell.size_bytes or 0) / 1e6:.1f} MB"
    return size if cell.latency_ms is None else f"{cell.latency_ms[0]:.2f} ms, {size}"


def write_readme(cells: list[Cell], machine: str) -> None:
    """Put the table between its two marks in README.md."""
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, last = rest.partition(END)
    note = f"On {machine}, one thread, batch 1, {SIDE} pixels, p50; random weights (`python benchmarks/backends.py`):"
    README.write_text(f"{head}{BEGIN}\n{note}\n\n{table(cells)}\n{END}{last}", encoding="utf-8")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--targets", default="", help="local/RUNTIME-PRECISION, with commas; all by default")
    parser.add_argument("--stage", choices=("files", "all"), default="all")
    parser.add_argument("--work", type=Path, default=Path(".cache") / "backends", help="where the files lie")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "backends.json")
    return parser.parse_args()


def main() -> None:
    """Fill the cells that are missing and print the table."""
    arguments = read_arguments()
    torch.set_num_threads(1)
    stored = read_json(arguments.out) if arguments.out.is_file() else {"facts": {}, "cells": {}}
    cells = {key: Cell(**{**cell, "latency_ms": _tuple(cell["latency_ms"])}) for key, cell in stored["cells"].items()}
    chosen = [Target.parse(text) for text in arguments.targets.split(",") if text] or targets()
    console = Console(stderr=True)
    with open_session(find_device("local")) as session:
        facts: dict[str, Any] = {"machine": session.hello().identity["cpu_model"], "hwnas": hwnas.__version__}
        for target in chosen:
            for name in arguments.networks.split(","):
                cell = cells.get(f"{name} {target}", Cell(name, str(target)))
                folder = arguments.work / name / target.slug
                if not cell.exports and not cell.problem:
                    cell = made(cell, session, folder)
                if arguments.stage == "all" and cell.loads and cell.latency_ms is None:
                    cell = measured(cell, session, folder)
                cells[cell.key] = cell
                console.print(f"{cell.key}: {in_words(cell)} {cell.problem}")
                write_json(
                    arguments.out, {"facts": facts, "cells": {key: asdict(entry) for key, entry in cells.items()}}
                )
    if arguments.readme:
        write_readme(list(cells.values()), facts["machine"])
    if arguments.json:
        print(json.dumps([asdict(cell) for cell in cells.values()]))
    else:
        print(table(list(cells.values())))


def _tuple(value: list[float] | None) -> tuple[float, float, float] | None:
    return None if value is None else (value[0], value[1], value[2])


if __name__ == "__main__":
    main()
