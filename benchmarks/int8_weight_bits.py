"""What int8 costs in answers with weights of 8 and of 7 bits, on this machine.

    python benchmarks/int8_weight_bits.py examples/digits-cpu.yaml --runs runs [--set seed=1 --set name=seed-1]

Needs a run with fine-tuned winners. Each is exported for ONNX Runtime and OpenVINO in int8 with either width, and run on the
gate and validation images: the share of them on which it names another class than torch in float32. Figures go beside this
file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _runs import keep, open_run, parser_of
from numpy.typing import NDArray

from hwnas import registry
from hwnas.artifacts.parity import run_images
from hwnas.artifacts.source import Source
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.session import Session, open_session
from hwnas.finetuning.winner import DESCRIPTION, load_winner
from hwnas.targets import Target, find_device

RESULTS = Path(__file__).with_name("int8_weight_bits.json")


def answers(session: Session, source: Source, target: Target, bits: int, images: NDArray[Any]) -> NDArray[np.int64]:
    """Return the classes ``[n]`` that an exported file names."""
    calibration = source.images(source.data.train, 128, 0)
    with tempfile.TemporaryDirectory() as folder:
        files = registry.load("backend", target.runtime)().export(
            source.module,
            torch.from_numpy(images[:8]),
            target.precision,
            Path(folder),
            calibration=calibration,
            weight_bits=bits,
        )
        loaded = session.load(files, target)
        found = run_images(session, loaded, images)["output"]
        session.unload(loaded.handle)
    return np.asarray(found.argmax(axis=1))


def main() -> None:
    """Export, run and print."""
    run = open_run(parser_of(__doc__).parse_args())
    run.use_threads()
    folders = sorted(path.parent for path in (run.path / "winners").glob(f"*/{DESCRIPTION}"))
    with open_session(find_device("local")) as session:
        identity = session.hello().identity
        entries: dict[str, Any] = {
            "cpu_model": identity.get("cpu_model"),
            "bits_chosen_here": int8_weight_bits(identity),
        }
        for runtime in ("onnxruntime", "openvino"):
            changed: dict[int, list[float]] = {8: [], 7: []}
            for folder in folders:
                winner = load_winner(folder, run.space)
                source = Source(winner.module, winner.architecture, run.space, run.data)
                parts = [source.images(split, len(split)) for split in (run.data.gate, run.data.validation)]
                images = np.concatenate(parts)
                with torch.no_grad():
                    expected = winner.module(torch.from_numpy(images)).argmax(1).numpy()
                for bits, shares in changed.items():
                    found = answers(session, source, Target("local", runtime, "int8"), bits, images)
                    shares.append(float(np.mean(found != expected)))
            entries[runtime] = {f"changed_with_{bits}_bits": shares for bits, shares in changed.items()}
            means = ", ".join(f"{bits} bits {np.mean(shares):.2%}" for bits, shares in changed.items())
            print(f"{runtime}: {len(folders)} winners, {len(images)} images each, changed answers: {means}")
    keep(RESULTS, run, entries)


if __name__ == "__main__":
    main()
