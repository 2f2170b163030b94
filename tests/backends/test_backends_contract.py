from __future__ import annotations

from hwnas import registry
from hwnas.backends.base import Backend
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.backends.openvino import OpenVinoBackend
from hwnas.backends.simulated import SimulatedBackend
from hwnas.backends.torch import TorchBackend
from hwnas.testing.backends import BackendContract, ComputingBackendContract, QuantisingBackendContract


class TestOnnxRuntime(QuantisingBackendContract):
    backend_type = OnnxRuntimeBackend


class TestOpenVino(QuantisingBackendContract):
    backend_type = OpenVinoBackend


class TestTorch(ComputingBackendContract):
    backend_type = TorchBackend


class TestSimulated(BackendContract):
    backend_type = SimulatedBackend


def test_every_backend_is_registered_under_its_name() -> None:
    known = {OnnxRuntimeBackend, OpenVinoBackend, TorchBackend, SimulatedBackend}
    found = {registry.load("backend", name) for name in registry.names("backend")}
    assert known <= found
    for name in registry.names("backend"):
        backend = registry.load("backend", name)
        assert issubclass(backend, Backend)
        assert backend.name == name
