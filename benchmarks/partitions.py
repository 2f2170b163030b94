"""Kernels told from an ONNX file beside those that run: 50 networks, ONNX Runtime and OpenVINO on this machine's CPU.

    python benchmarks/partitions.py [--only NAME ...]

Forty-one convolutional networks of torchvision and nine random members of the MobileNetV3 space, with random weights, at
224 pixels, exported by torch. A kernel agrees if the same nodes of the file went into it. Figures go beside this file; a
network whose figures were made with the same versions of the runtimes, of torch and of the reading is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hwnas.kernels
from hwnas.backends._quiet import silenced
from hwnas.files import read_json, write_json
from hwnas.kernels.comparing import compare
from hwnas.kernels.executed import executed_kernels
from hwnas.kernels.reading import kernels_of_onnx
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import build_network
from hwnas_profilers.fingerprint import parse_cpuinfo

RESULTS = Path(__file__).with_name("partitions.json")
READING = (
    *("comparing", "executed", "fusion", "graph", "onnxruntime_partition", "openvino_partition", "optimised"),
    *("partition", "pieces", "reading", "rewrites", "shapes", "transposes", "work"),
)
"""Modules of hwnas.kernels that the figures depend on."""
RUNTIMES = ("onnxruntime", "openvino")
PIXELS = 224
MEMBERS = 9
NAMES = (
    *("alexnet", "vgg11", "vgg13_bn", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d"),
    *("resnext101_64x4d", "wide_resnet50_2", "densenet121", "densenet161", "densenet169", "densenet201"),
    *("squeezenet1_0", "squeezenet1_1", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_large"),
    *("mobilenet_v3_small", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("mnasnet0_5", "mnasnet1_0", "mnasnet1_3", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2"),
    *("efficientnet_b4", "efficientnet_v2_s", "efficientnet_v2_m", "regnet_y_400mf", "regnet_y_1_6gf"),
    *("regnet_x_400mf", "regnet_x_3_2gf", "convnext_tiny", "convnext_small"),
)
"""Constructors of torchvision.models."""


def of_torchvision(name: str) -> torch.nn.Module:
    """Return a network of torchvision with random weights."""
    import torchvision

    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: torch.nn.Module = getattr(torchvision.models, name)(weights=None, **more)
    return module


def of_space(seed: int) -> torch.nn.Module:
    """Return a random member of the MobileNetV3 space."""
    space = MobileNetV3Space()
    encoding = space.sample(np.random.default_rng(seed), 1)[0]
    return build_network(space, space.decode(encoding), seed=seed)


def networks() -> dict[str, Callable[[], torch.nn.Module]]:
    """Return what makes each network, by its name."""
    made: dict[str, Callable[[], torch.nn.Module]] = {name: lambda name=name: of_torchvision(name) for name in NAMES}
    return made | {f"member-{seed}": lambda seed=seed: of_space(seed) for seed in range(MEMBERS)}


def macs_in_torch(module: torch.nn.Module, example: torch.Tensor) -> float:
    """Count multiply-accumulates by hooks on every convolution and linear layer."""
    total = 0.0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output.numel()  # type: ignore[operator]

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    return total


def judge(module: torch.nn.Module) -> dict[str, Any]:
    """Export a network and compare what is told from the file with what runs."""
    module.eval()
    example = torch.zeros(1, 3, PIXELS, PIXELS)
    entry: dict[str, Any] = {"macs_torch": macs_in_torch(module, example)}
    with tempfile.TemporaryDirectory(prefix="hwnas-partitions-") as folder:
        path = Path(folder) / "network.onnx"
        with warnings.catch_warnings(), silenced():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (example,), str(path), dynamo=False)
        for runtime in RUNTIMES:
            started = time.perf_counter()
            kernels = kernels_of_onnx(path, runtime)
            seconds = time.perf_counter() - started
            found = compare(kernels, executed_kernels(path, runtime), path)
            entry[runtime] = {
                "predicted": found.predicted,
                "executed": found.executed,
                "equal": found.equal,
                "unnamed": found.unnamed,
                "macs": sum(kernel.macs for kernel in kernels),
                "seconds": round(seconds, 2),
                "overheads": found.overheads,
                "only_predicted": found.only_predicted,
                "only_executed": found.only_executed,
            }
    return entry


def cpu_model() -> str:
    """Return what this machine's processor is called."""
    cpuinfo = Path("/proc/cpuinfo")
    return parse_cpuinfo(cpuinfo.read_text(encoding="utf-8"))[0] if cpuinfo.exists() else platform.processor()


def versions() -> dict[str, str]:
    """Return what the figures depend on: packages, and the sources of the reading."""
    folder = Path(hwnas.kernels.__file__).parent
    digest = hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in READING)).hexdigest()[:12]
    packages = ("onnxruntime", "openvino", "torch", "torchvision", "onnx")
    return {**{name: version(name) for name in packages}, "reading": digest}


def show(cells: dict[str, Any]) -> None:
    """Print a line per network and runtime, and how many agree."""
    shown = Table("network", "runtime", "predicted", "executed", "equal", "unnamed", "MACs", "in torch", "overheads")
    for name, cell in cells.items():
        for runtime in RUNTIMES:
            found = cell[runtime]
            overheads = ", ".join(f"{count} {op}" for op, count in found["overheads"].items())
            counts = [str(found[key]) for key in ("predicted", "executed", "equal", "unnamed")]
            macs = [f"{value / 1e6:,.1f} M" for value in (found["macs"], cell["macs_torch"])]
            shown.add_row(name, runtime, *counts, *macs, overheads)
    console = Console(width=180)
    console.print(shown)
    for runtime in RUNTIMES:
        pairs = [(cell[runtime], cell["macs_torch"]) for cell in cells.values()]
        same = sum(found["predicted"] == found["executed"] == found["equal"] for found, _ in pairs)
        conserved = sum(found["macs"] == counted for found, counted in pairs)
        console.print(f"{runtime}: {same} of {len(pairs)} networks agree exactly, {conserved} conserve their MACs")


def main() -> None:
    """Judge what is not judged yet, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of networks")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    made, used = networks(), versions()
    stored = read_json(RESULTS) if RESULTS.exists() else {}
    cells: dict[str, Any] = stored.get("networks", {}) if stored.get("versions") == used else {}
    for name in made:
        if name in cells or (only and name not in only):
            continue
        torch.manual_seed(0)
        cells[name] = judge(made[name]())
        ordered = {key: cells[key] for key in made if key in cells}
        write_json(
            RESULTS, {"date": time.strftime("%Y-%m-%d"), "cpu": cpu_model(), "versions": used, "networks": ordered}
        )
        print(name, flush=True)
    show({key: cells[key] for key in made if key in cells and (not only or key in only)})


if __name__ == "__main__":
    main()
