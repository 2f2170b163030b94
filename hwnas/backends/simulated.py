"""The simulated runtime: ``model.sim.json``, a description of the network from which its latency follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwnas.backends.base import EXPORT_RECORD, Backend, Quantising
from hwnas.backends.checks import forward_once
from hwnas.backends.naming import INPUT, OUTPUT, tensor_names
from hwnas.backends.synthetic import Weights
from hwnas.devices.models import ModelFiles
from hwnas.files import write_json
from hwnas.spaces.graph import LayerGraph

if TYPE_CHECKING:
    import torch

MODEL = "model.sim.json"
FLOAT_BYTES = 4


def _tensor(name: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": "float32"}


def describe_graph(graph: LayerGraph, batch: int) -> dict[str, Any]:
    """Return the description of a layer graph: its layers; what is fused and how long it takes is the device's affair."""
    names = tensor_names(graph)
    layers = [
        {
            "name": layer.name,
            "op": layer.op,
            "inputs": list(layer.inputs),
            "output": names[layer.name],
            "shape": list(layer.shape),
            "macs": layer.macs,
            "weights": layer.parameters,
            "groups": layer.groups,
        }
        for layer in graph.layers
    ]
    return {
        "macs": graph.macs,
        "inputs": [_tensor(INPUT, (batch, *graph.input_shape))],
        "outputs": [_tensor(OUTPUT, (batch, *graph.layers[-1].shape))],
        "layers": layers,
    }


def describe_module(module: torch.nn.Module, example: torch.Tensor, batch: int) -> dict[str, Any]:
    """Return the description of a module: that of its layer graph if it knows its architecture, else totals counted.

    Raises:
        ModelFileError: The module cannot be run, or returns something else than one tensor.
    """
    space, architecture = getattr(module, "space", None), getattr(module, "architecture", None)
    if space is not None and architecture is not None:
        return describe_graph(space.graph(architecture), batch)
    import torch

    counted = {"macs": 0, "elements": sum(parameter.numel() for parameter in module.parameters())}

    def count(layer: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            counted["macs"] += layer.weight.numel() * output[0].numel() // layer.weight.shape[0]
            counted["elements"] += inputs[0][0].numel() + output[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    try:
        output = forward_once(module, example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return {
        "macs": counted["macs"],
        "bytes": FLOAT_BYTES * counted["elements"],
        "inputs": [_tensor(INPUT, (batch, *example.shape[1:]))],
        "outputs": [_tensor(OUTPUT, (batch, *output.shape[1:]))],
    }


class SimulatedBackend(Backend):
    """Makes a description. The same network gives the same description by both ways; weights do not matter."""

    name: ClassVar[str] = "simulated"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16", "int8")

    def _build(
        self, graph: LayerGraph, precision: str, folder: Path, batch: int, seed: int, weights: Weights | None
    ) -> ModelFiles:
        return self._write(describe_graph(graph, batch), folder)

    def _export(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        precision: str,
        folder: Path,
        quantising: Quantising | None,
        batch: int,
    ) -> ModelFiles:
        write_json(folder / EXPORT_RECORD, {"exporter": "simulated"})
        return self._write(describe_module(module, example, batch), folder)

    @staticmethod
    def _write(described: dict[str, Any], folder: Path) -> ModelFiles:
        write_json(folder / MODEL, described)
        return ModelFiles(folder / MODEL)
