"""Published networks that were never profiled, predicted kernel by kernel, against their measurement on this CPU.

Convolutional networks of torchvision and timm at 224 pixels, random weights, batch 1, exported to ONNX. Their latencies are
measured under the reference condition of the kernel table, in a session of their own; predictions come from the kernel model
of that table, which has seen synthetic networks only.

    hwnas profile --kernels --target local/onnxruntime-fp32 --output FOLDER
    python benchmarks/any_network.py FOLDER --out benchmarks/any_network.json

``FOLDER`` is what ``hwnas profile --kernels`` left. Networks that were measured are not measured again; ``--predict-only``
predicts anew what was measured. Needs timm: ``pip install -e '.[benchmarks]'``.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

import hwnas
from hwnas.devices.models import ModelFiles
from hwnas.devices.session import open_session
from hwnas.errors import HwnasError
from hwnas.files import Journal, digest, read_json, write_json
from hwnas.kernels.batch import KernelBatch
from hwnas.kernels.predictor import KernelPredictor
from hwnas.kernels.reading import kernels_of_onnx
from hwnas.latency.evaluation import score
from hwnas.latency.measurement import MeasureItem
from hwnas.latency.measuring import measure_session
from hwnas.latency.networks import fingerprint_here
from hwnas.latency.profiling import MODEL_FOLDER, TABLE_FILE
from hwnas.latency.protocol import Protocol
from hwnas.latency.table import LatencyTable
from hwnas.progress import progress_bar
from hwnas.targets import find_device

TORCHVISION = (
    *("alexnet", "vgg11", "vgg13_bn", "vgg16", "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d"),
    *("wide_resnet50_2", "densenet121", "densenet169", "squeezenet1_0", "squeezenet1_1", "googlenet", "inception_v3"),
    *("mnasnet0_5", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "shufflenet_v2_x0_5"),
    *("shufflenet_v2_x1_0", "shufflenet_v2_x2_0", "efficientnet_b0", "efficientnet_b1", "efficientnet_b3"),
    *("efficientnet_v2_s", "regnet_x_400mf", "regnet_x_1_6gf", "regnet_y_400mf", "regnet_y_1_6gf", "convnext_tiny"),
)
TIMM = (
    *("mobilenetv1_100", "mobilenetv4_conv_small", "efficientnet_lite0", "ghostnet_100", "hardcorenas_a", "fbnetc_100"),
    *("spnasnet_100", "tf_mixnet_s", "rexnet_100", "repvgg_a0", "dla34", "cspdarknet53", "dpn68", "res2net50_26w_4s"),
    *("mobileone_s0", "ese_vovnet19b_dw", "lcnet_100", "tinynet_a", "semnasnet_100", "selecsls42b"),
)


def make(name: str) -> torch.nn.Module:
    """Return a network by its name here (``tv:`` or ``timm:`` and its own), with random weights."""
    library, own = name.split(":")
    assert hwnas.__version__  # prepares the import of torchvision
    if library == "tv":
        import torchvision

        extra = {"init_weights": False} if own in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(own, weights=None, **extra).eval()
    import timm

    return timm.create_model(own, pretrained=False).eval()


def export(name: str, folder: Path) -> Path:
    """Write the ONNX file of a network, if it is not there, and return its path."""
    path = folder / f"{name.replace(':', '-')}.onnx"
    if not path.exists():
        part = path.with_suffix(".part")
        torch.manual_seed(0)
        torch.onnx.export(make(name), (torch.zeros(1, 3, 224, 224),), str(part), dynamo=False, opset_version=17)
        onnx.checker.check_model(str(part))
        part.rename(path)
    return path


def measure(table: LatencyTable, paths: dict[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Measure files under the reference of a table; returns value, interval and grade by name."""
    items = [MeasureItem(name, lambda path=path: ModelFiles(path)) for name, path in paths.items()]
    protocol = Protocol.from_dict(table.header.protocol)
    journal = Journal(folder / f"measured-{digest(sorted(paths))[:12]}.jsonl")
    with open_session(find_device(table.target.device)) as session, progress_bar("networks", 1.0) as advance:
        table.header.fingerprint.require_same(fingerprint_here(session, table.target), "the table", "Profile here.")
        found = measure_session(session, table.target, items, protocol, journal, advance, table.header.canaries)
    results: dict[str, dict[str, Any]] = {}
    for entry in found.measurements:
        if entry.failure is not None:
            results[entry.key] = {"failure": list(entry.failure)}
            continue
        results[entry.key] = {
            "measured": entry.value,
            "low": entry.low,
            "high": entry.high,
            "grade": entry.grade,
            "halves": list(entry.halves),
        }
    return results


def predict(predictor: KernelPredictor, paths: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return value, interval, distribution flag and kernels of files by name."""
    networks = {name: kernels_of_onnx(path, predictor.target.runtime) for name, path in paths.items()}
    batch = KernelBatch.of(list(networks.values()))
    found, macs = predictor.predict(batch), batch.sums(batch["macs"])
    return {
        name: {
            "predicted": float(found.value[i]),
            "predicted_low": float(found.low[i]),
            "predicted_high": float(found.high[i]),
            "in_distribution": not bool(found.out_of_distribution[i]),
            "kernels": len(networks[name]),
            "macs": float(macs[i]),
        }
        for i, name in enumerate(networks)
    }


def scores_of(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Score the predictions of the networks that were measured."""
    good = [cell for cell in cells.values() if "measured" in cell and "predicted" in cell]

    def column(name: str, chosen: Sequence[dict[str, Any]] = good) -> Any:
        return np.array([cell[name] for cell in chosen], dtype=np.float64)

    inside = [cell for cell in good if cell["in_distribution"]]
    ends = column("predicted_low"), column("predicted_high")
    found = {"all": score(column("predicted"), column("measured"), *ends).as_dict()}
    if inside:
        ends = column("predicted_low", inside), column("predicted_high", inside)
        found["in_distribution"] = score(column("predicted", inside), column("measured", inside), *ends).as_dict()
    halves = np.array([cell["halves"] for cell in good if len(cell["halves"]) == 2])
    if len(halves):
        found["test_retest"] = score(halves[:, 0], halves[:, 1]).as_dict()
    return found


def show(title: str, entry: dict[str, Any]) -> None:
    """Print one line per network, then the scores."""
    table = Table("network", "measured", "predicted", "error", "low", "high", "inside", "grade", title=title)
    for name, cell in sorted(entry["networks"].items()):
        if "measured" not in cell or "predicted" not in cell:
            table.add_row(name, str(cell.get("failure", "not measured")))
            continue
        error = cell["predicted"] / cell["measured"] - 1.0
        numbers = [f"{cell[key]:.2f}" for key in ("measured", "predicted")] + [f"{error:+.1%}"]
        numbers += [f"{cell[key]:.2f}" for key in ("predicted_low", "predicted_high")]
        table.add_row(name, *numbers, "yes" if cell["in_distribution"] else "no", cell["grade"])
    Console(width=120).print(table)
    for name, scores in entry["scores"].items():
        shown = ", ".join(f"{key} {value:.3f}" for key, value in scores.items() if value is not None)
        print(f"{name}: {shown}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of hwnas profile --kernels")
    parser.add_argument("--out", type=Path, required=True, help="results file")
    parser.add_argument("--files", type=Path, default=None, help="where ONNX files are kept (beside --out by default)")
    parser.add_argument("--predict-only", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    files = options.files or options.out.with_suffix("")
    files.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = read_json(options.out) if options.out.exists() else {}
    try:
        table = LatencyTable.load(options.folder / TABLE_FILE)
        predictor = KernelPredictor.load(options.folder / MODEL_FOLDER)
        names = [f"tv:{name}" for name in TORCHVISION] + [f"timm:{name}" for name in TIMM]
        paths = {name: export(name, files) for name in names}
        key = str(table.target)
        entry = results.setdefault(key, {"networks": {}})
        cells = entry["networks"]
        missing = {name: path for name, path in paths.items() if "measured" not in cells.get(name, {})}
        if missing and not options.predict_only:
            cells |= measure(table, missing, options.folder)
            entry["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
            entry["cpu_model"] = table.header.fingerprint.identity.get("cpu_model")
            write_json(options.out, results)
        for name, found in predict(predictor, paths).items():
            cells[name] = {**cells.get(name, {}), **found}
        entry["scores"] = scores_of(cells)
        entry["model"] = {name: predictor.facts[name] for name in ("rows", "out_of_fold_mape", "versions")}
        write_json(options.out, results)
    except HwnasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(f"{key} ({entry.get('date', 'not measured')}, {entry.get('cpu_model', '')})", entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
