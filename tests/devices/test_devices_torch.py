"""PyTorch as a runtime: exported programs, never TorchScript or pickles."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hwnas.devices.models import BurstSpec, ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import MeasurementFailure
from hwnas.targets import Device, Target

pytest.importorskip("torch")
TORCH = Target("local", "torch", "fp32")

EXPORT = """
import sys
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
net = torch.nn.Sequential()
net.add_module("stem", torch.nn.Conv2d(3, 8, 3, padding=1))
net.add_module("act", torch.nn.ReLU())
net.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
net.add_module("flat", torch.nn.Flatten())
net.add_module("fc", torch.nn.Linear(8, 5))
example = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
torch.export.save(torch.export.export(net.eval(), (example,)), sys.argv[1] + "/net.pt2")
import numpy
with torch.inference_mode():
    numpy.save(sys.argv[1] + "/expected.npy", net(example).numpy())
class Evil:
    def __reduce__(self):
        return (open, (sys.argv[1] + "/executed", "w"))
torch.save((Evil(),), sys.argv[1] + "/evil.pt")
torch.jit.save(torch.jit.trace(net, example), sys.argv[1] + "/script.pt2")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export in a process of its own, so that this one does not carry torch."""
    path = tmp_path_factory.mktemp("torch")
    subprocess.run([sys.executable, "-W", "ignore", "-c", EXPORT, str(path)], check=True)
    return path


def test_an_exported_program_runs_times_and_names_its_modules(folder: Path) -> None:
    with open_session(Device("local")) as session:
        model = session.load(ModelFiles(folder / "net.pt2"), TORCH)
        assert (model.provider, model.precision) == ("torch eager", "fp32")
        image = np.linspace(-1, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)
        output = session.run(model.handle, {model.inputs[0].name: image})[model.outputs[0].name]
        np.testing.assert_allclose(output, np.load(folder / "expected.npy"), rtol=1e-5, atol=1e-6)
        burst = session.burst_round([model.handle], BurstSpec(target_ms=1.0, min_runs=3))[0]
        assert burst.failure is None
        assert burst.samples.min() > 0.0
        kernels = session.kernels(model.handle, runs=3)
        assert {"stem", "act", "pool", "fc"} <= {name for kernel in kernels for name in kernel.outputs}
        refuse_others(session, folder)


def refuse_others(session: Session, folder: Path) -> None:
    for precision in ("int8", "fp16"):
        with pytest.raises(MeasurementFailure, match="fallback"):
            session.load(ModelFiles(folder / "net.pt2"), Target("local", "torch", precision))
    (folder / "text.pt2").write_text("not an archive")
    for name in ("text.pt2", "script.pt2"):
        with pytest.raises(MeasurementFailure, match="load_failed"):
            session.load(ModelFiles(folder / name), TORCH)


def rewrite(source: Path, target: Path, change: dict[str, bytes]) -> ModelFiles:
    """Copy an archive with members replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        members = {name: old.read(name) for name in old.namelist()}
        for name, data in {**members, **{f"net/{name}": data for name, data in change.items()}}.items():
            new.writestr(name, data)
    return ModelFiles(target)


def test_no_pickle_of_an_archive_is_run(folder: Path) -> None:
    evil = (folder / "evil.pt").read_bytes()
    config = b'{"config": {"x": {"path_name": "%s", "is_param": true, "use_pickle": %s, "tensor_meta": null}}}'
    pickled_weight = {
        "data/weights/weight_9": evil,
        "data/weights/model_weights_config.json": config % (b"weight_9", b"true"),
    }
    attempts: dict[str, dict[str, bytes]] = {
        "sample": {"data/sample_inputs/model.pt": evil},
        "opaque": {"data/constants/opaque_obj_0": evil},
        "weights": pickled_weight,
        "constants": {"data/constants/model_constants_config.json": config % (b"opaque_obj_0", b"false")},
        "legacy": {"data/constants/model.pt": evil},
    }
    with open_session(Device("local")) as session:
        for name, change in attempts.items():
            files = rewrite(folder / "net.pt2", folder / f"{name}.pt2", change)
            with pytest.raises(MeasurementFailure) as caught:
                session.load(files, TORCH)
            assert caught.value.kind == "load_failed", name
            assert not (folder / "executed").exists(), name
        with zipfile.ZipFile(folder / "opaque.pt2", "a", zipfile.ZIP_STORED) as archive:
            archive.writestr("other/data/constants/tensor_0", evil)
            archive.writestr("net/data/constants/tensor_0", evil)
        with pytest.raises(MeasurementFailure, match="twice"):
            session.load(ModelFiles(folder / "opaque.pt2"), TORCH)
        assert session.restarts == 0
        assert session.load(rewrite(folder / "net.pt2", folder / "copy.pt2", {}), TORCH).precision == "fp32"
