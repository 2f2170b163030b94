"""The contract of a backend, as test classes for authors of backends.

Use it so (:class:`ComputingBackendContract` for a backend without int8, :class:`BackendContract` for one whose runtime
computes nothing)::

    from hwnas.testing.backends import QuantisingBackendContract

    class TestMyBackend(QuantisingBackendContract):
        backend_type = MyBackend

Everything is real: a small network trained on scikit-learn's digits, files made by the backend, run by its runtime through a
session with this machine's agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.backends.base import Backend
from hwnas.backends.naming import OVERHEAD_OPS
from hwnas.devices.fingerprint import int8_weight_bits
from hwnas.devices.models import LoadedModel, ModelFiles
from hwnas.devices.session import Session, open_session
from hwnas.errors import ConfigError, MeasurementFailure, ModelFileError
from hwnas.supernets.static import folded_weights
from hwnas.targets import Device, Target
from hwnas.testing.trained import TrainedExample, trained_example


def torch_outputs(module: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what torch computes, ``[n, ...]``."""
    with torch.no_grad():
        result: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return result


def run_images(session: Session, loaded: LoadedModel, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run images through a loaded model batch by batch; ``len(images)`` must be a multiple of its batch."""
    size = loaded.inputs[0].shape[0]
    parts = []
    for start in range(0, len(images), size):
        batch = np.ascontiguousarray(images[start : start + size])
        outputs = session.run(loaded.handle, {loaded.inputs[0].name: batch})
        parts.append(outputs[loaded.outputs[0].name])
    return np.concatenate(parts)


def worst_relative_error(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the relative L2 distance of the worst image."""
    distance = np.linalg.norm(found - reference, axis=1) / np.linalg.norm(reference, axis=1)
    return float(distance.max())


class TwoOutputs(nn.Module):
    """A module no backend can export: it returns two tensors."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the input twice."""
        return x, x


def names_in(folder: Path) -> list[str]:
    """Return everything in a folder by name; nothing if there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class BackendContract:
    """What every backend has to keep; inherit from it and set ``backend_type``."""

    backend_type: ClassVar[type[Backend]]
    unattributed_ops: ClassVar[frozenset[str]] = frozenset()
    """Operations whose kernels the runtime leaves without any name, so that they cannot be given to a block."""
    kernel_times: ClassVar[bool] = True
    """Whether the runtime tells what it runs as one unit."""
    batches: ClassVar[bool] = True
    """Whether a file may be made for more than one image; if not, other batches must be refused."""

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend under test."""
        return self.backend_type()

    @pytest.fixture
    def example(self) -> TrainedExample:
        """Return the trained network."""
        return trained_example()

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls) -> Iterator[Session]:
        """Yield a session with this machine."""
        with open_session(Device("local")) as session:
            yield session

    def load(
        self, session: Session, backend: Backend, files: ModelFiles, precision: str, batch: int = 1
    ) -> LoadedModel:
        """Load files as the backend's runtime on this machine."""
        return session.load(files, Target("local", backend.name, precision, batch=batch))

    def export(
        self, backend: Backend, example: TrainedExample, precision: str, folder: Path, **options: Any
    ) -> ModelFiles:
        """Export the trained network with real images."""
        calibration = example.calibration if precision == "int8" else None
        images = torch.from_numpy(example.images[:8])
        return backend.export(example.module, images, precision, folder, calibration=calibration, **options)

    def test_it_is_available_and_named(self, backend: Backend) -> None:
        """Name, precisions and availability are told."""
        assert backend.available() is None
        assert backend.name
        assert set(backend.precisions) <= {"fp32", "fp16", "bf16", "int8"}
        assert backend.precisions

    def test_built_files_lie_in_the_folder_and_load(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """Built files are complete, nothing lies beside them, and the runtime opens them in their precision."""
        for precision in backend.precisions:
            files = backend.build_network(example.graph, precision, tmp_path / precision)
            assert names_in(tmp_path / precision) == sorted(path.name for path in files.all)
            loaded = self.load(session, backend, files, precision)
            assert loaded.precision == precision
            assert loaded.inputs[0].shape == (1, *example.graph.input_shape)
            assert loaded.outputs[0].shape == (1, *example.graph.layers[-1].shape)
            session.unload(loaded.handle)

    def test_the_batch_is_fixed_in_the_file(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """A file of batch 3 takes and gives three images; a backend of batch 1 alone makes none."""
        precision = backend.precisions[-1]
        if not self.batches:
            with pytest.raises(ConfigError, match="batch=3"):
                backend.build_network(example.graph, precision, tmp_path / "out", batch=3)
            assert not (tmp_path / "out").exists()
            return
        files = backend.build_network(example.graph, precision, tmp_path, batch=3)
        loaded = self.load(session, backend, files, precision, batch=3)
        assert loaded.inputs[0].shape == (3, *example.graph.input_shape)
        outputs = run_images(session, loaded, example.images[:3])
        assert outputs.shape == (3, *example.graph.layers[-1].shape)
        assert np.isfinite(outputs).all()

    def test_equal_seeds_give_equal_files(self, backend: Backend, example: TrainedExample, tmp_path: Path) -> None:
        """The same network of the same seed is the same file, byte by byte."""
        for precision in backend.precisions:
            first = backend.build_network(example.graph, precision, tmp_path / "a", seed=3)
            second = backend.build_network(example.graph, precision, tmp_path / "b", seed=3)
            assert [path.read_bytes() for path in first.all] == [path.read_bytes() for path in second.all]

    def test_kernels_belong_to_blocks(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """Every kernel but overhead belongs to a block; every block with a convolution has one.

        A runtime that tells no kernel times says so instead of inventing some.
        """
        graph = example.graph
        if not self.kernel_times:
            files = backend.build_network(graph, backend.precisions[0], tmp_path)
            loaded = self.load(session, backend, files, backend.precisions[0])
            with pytest.raises(MeasurementFailure, match="kernel times"):
                session.kernels(loaded.handle, runs=2)
            return
        for precision in backend.precisions:
            files = backend.build_network(graph, precision, tmp_path / precision)
            loaded = self.load(session, backend, files, precision)
            kernels = session.kernels(loaded.handle, runs=2)
            session.unload(loaded.handle)
            blocks = {kernel: backend.kernel_block(kernel, graph) for kernel in kernels}
            assert set(blocks.values()) - {None} <= {layer.block for layer in graph.layers}
            lost = {kernel.op for kernel, block in blocks.items() if block is None and kernel.op not in OVERHEAD_OPS}
            assert lost <= self.unattributed_ops
            assert {layer.block for layer in graph.layers if layer.op == "conv"} <= set(blocks.values())

    def test_an_unknown_precision_is_an_error(self, backend: Backend, example: TrainedExample, tmp_path: Path) -> None:
        """A precision it does not make is refused, and nothing is written."""
        with pytest.raises(ConfigError, match=r"not precision='int3'"):
            backend.build_network(example.graph, "int3", tmp_path / "out")
        with pytest.raises(ConfigError, match=r"not precision='int3'"):
            self.export(backend, example, "int3", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_batch_below_one_is_an_error(self, backend: Backend, example: TrainedExample, tmp_path: Path) -> None:
        """Batch 0 is refused, and nothing is written."""
        with pytest.raises(ConfigError, match="batch=0"):
            backend.build_network(example.graph, backend.precisions[0], tmp_path / "out", batch=0)
        assert not (tmp_path / "out").exists()

    def test_a_module_of_two_outputs_is_an_error(
        self, backend: Backend, example: TrainedExample, tmp_path: Path
    ) -> None:
        """A module that returns a tuple is refused, and nothing is written."""
        with pytest.raises(ModelFileError, match="TwoOutputs returns a tuple of 2"):
            backend.export(TwoOutputs(), torch.from_numpy(example.images[:2]), backend.precisions[0], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_export_leaves_the_module_as_it_was(
        self, backend: Backend, example: TrainedExample, tmp_path: Path
    ) -> None:
        """Exporting changes neither weights nor statistics nor the mode."""
        before = {name: value.clone() for name, value in example.module.state_dict().items()}
        example.module.train()
        try:
            files = self.export(backend, example, backend.precisions[0], tmp_path)
            assert example.module.training
        finally:
            example.module.eval()
        assert files.size_bytes > 0
        after = example.module.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class ComputingBackendContract(BackendContract):
    """What a backend whose runtime really computes must do besides.

    Attributes:
        parity: Largest relative L2 distance of an exported fp32 file to torch, worst image.
    """

    parity: ClassVar[float] = 1e-4

    def test_exported_fp32_computes_what_torch_computes(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """An exported float file agrees with torch on real images."""
        files = self.export(backend, example, "fp32", tmp_path)
        loaded = self.load(session, backend, files, "fp32")
        found = run_images(session, loaded, example.images[:64])
        assert worst_relative_error(torch_outputs(example.module, example.images[:64]), found) <= self.parity

    def test_exported_batches_compute_the_same(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """So does one of batch 4, where there are batches."""
        if not self.batches:
            with pytest.raises(ConfigError, match="batch=4"):
                self.export(backend, example, "fp32", tmp_path / "out", batch=4)
            assert not (tmp_path / "out").exists()
            return
        files = self.export(backend, example, "fp32", tmp_path, batch=4)
        loaded = self.load(session, backend, files, "fp32", batch=4)
        found = run_images(session, loaded, example.images[:16])
        assert worst_relative_error(torch_outputs(example.module, example.images[:16]), found) <= self.parity

    def test_built_fp32_computes_what_its_weights_say(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """A network built from folded weights computes what the module does."""
        files = backend.build_network(example.graph, "fp32", tmp_path, weights=folded_weights(example.module))
        loaded = self.load(session, backend, files, "fp32")
        found = run_images(session, loaded, example.images[:64])
        assert worst_relative_error(torch_outputs(example.module, example.images[:64]), found) <= self.parity

    def test_a_failure_leaves_what_was_there(self, backend: Backend, example: TrainedExample, tmp_path: Path) -> None:
        """A build that fails half-way leaves the files of the build before it, and nothing else."""
        precision = backend.precisions[0]
        files = backend.build_network(example.graph, precision, tmp_path)
        before = {path.name: path.read_bytes() for path in files.all}
        some = dict(list(folded_weights(example.module).items())[:-1])
        with pytest.raises(ModelFileError, match="missing"):
            backend.build_network(example.graph, precision, tmp_path, weights=some)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class QuantisingBackendContract(ComputingBackendContract):
    """What a backend that quantises to int8 with calibration images must do besides.

    Attributes:
        int8_error: Largest relative L2 distance of all outputs of an int8 file to torch.
        int8_agreement: Smallest share of images on which int8 and torch name the same class.
    """

    int8_error: ClassVar[float] = 0.1
    int8_agreement: ClassVar[float] = 0.95

    def test_exported_int8_is_close(
        self, backend: Backend, example: TrainedExample, session: Session, tmp_path: Path
    ) -> None:
        """An exported int8 file is close to torch, but not the float file."""
        bits = int8_weight_bits(session.hello().identity)
        files = self.export(backend, example, "int8", tmp_path, weight_bits=bits)
        loaded = self.load(session, backend, files, "int8")
        found = run_images(session, loaded, example.images)
        reference = torch_outputs(example.module, example.images)
        assert 1e-4 < np.linalg.norm(found - reference) / np.linalg.norm(reference) <= self.int8_error
        assert np.mean(found.argmax(1) == reference.argmax(1)) >= self.int8_agreement

    def test_another_width_of_weights_is_an_error(
        self, backend: Backend, example: TrainedExample, tmp_path: Path
    ) -> None:
        """Int8 weights use 7 or 8 bits."""
        with pytest.raises(ConfigError, match="weight_bits=6 must be 7"):
            self.export(backend, example, "int8", tmp_path / "out", weight_bits=6)
        assert not (tmp_path / "out").exists()

    def test_wrong_calibration_is_an_error(self, backend: Backend, example: TrainedExample, tmp_path: Path) -> None:
        """Calibration images that are absent, empty, of another shape or no numbers are refused."""
        images = torch.from_numpy(example.images[:2])
        wrong: list[tuple[Any, str]] = [
            (None, "needs calibration images"),
            (example.calibration[:0], "empty"),
            (example.calibration[:, :, :8], r"shape \(64, 1, 8, 16\)"),
            (example.calibration[0], r"shape \(1, 16, 16\)"),
            (np.full_like(example.calibration, np.nan), "NaN"),
            (np.array([["a"]]), "must be numbers"),
        ]
        for calibration, message in wrong:
            with pytest.raises(ConfigError, match=message):
                backend.export(example.module, images, "int8", tmp_path / "out", calibration=calibration)
        assert not (tmp_path / "out").exists()
