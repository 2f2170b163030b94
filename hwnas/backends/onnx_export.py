"""From a torch module to an ONNX file that computes the same, with tensors named after module paths.

torch has two exporters. The one by TorchScript is deprecated, but ten times faster and names its nodes after modules; the
one by ``torch.export`` (dynamo) is the default of today. Neither is trusted: what they write is run and compared with torch
on real images, and the first that agrees is used.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.backends._quiet import silenced
from hwnas.backends.checks import FloatArray, forward_once, repeat_to_batch
from hwnas.backends.naming import INPUT, OUTPUT
from hwnas.backends.onnx_files import save_onnx
from hwnas.errors import ModelFileError

if TYPE_CHECKING:
    import torch

Exporter = Literal["torchscript", "dynamo"]
Runner = Callable[[Path, list[FloatArray]], list[FloatArray]]
"""Runs an ONNX file on batches of its fixed size; the backend's own runtime does."""

OPSETS: dict[Exporter, int] = {"torchscript": 17, "dynamo": 18}
MAX_RELATIVE_L2 = 1e-4
"""Largest accepted distance between the file's outputs and torch's, relative L2 over an image's outputs, worst image."""
COMPARED_IMAGES = 8


@dataclass(frozen=True)
class ExportRecord:
    """How an ONNX file was made.

    Attributes:
        exporter: The exporter whose file was used.
        opset: Version of the ONNX operators.
        max_error: Relative L2 distance to torch on the worst image compared.
        images: Number of images compared.
        refused: Exporter -> why its file was not used.
    """

    exporter: str
    opset: int
    max_error: float
    images: int
    refused: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def relative_error(reference: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the relative L2 distance of the worst image, both ``[n, ...]``; infinity if shapes differ or not finite."""
    if reference.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    a = reference.reshape(len(reference), -1).astype(np.float64)
    b = found.reshape(len(found), -1).astype(np.float64)
    norms = np.maximum(np.linalg.norm(a, axis=1), np.finfo(np.float32).tiny)
    return float(np.max(np.linalg.norm(a - b, axis=1) / norms))


def _torchscript(module: torch.nn.Module, batch: torch.Tensor, path: Path) -> onnx.ModelProto:
    import torch

    torch.onnx.export(
        module,
        (batch,),
        str(path),
        dynamo=False,
        opset_version=OPSETS["torchscript"],
        input_names=[INPUT],
        output_names=[OUTPUT],
    )
    return onnx.load(path)


def _dynamo(module: torch.nn.Module, batch: torch.Tensor, path: Path) -> onnx.ModelProto:
    import torch

    program = torch.onnx.export(
        module,
        (batch,),
        dynamo=True,
        opset_version=OPSETS["dynamo"],
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    return program.model_proto


_EXPORTERS: dict[Exporter, Callable[[torch.nn.Module, torch.Tensor, Path], onnx.ModelProto]] = {
    "torchscript": _torchscript,
    "dynamo": _dynamo,
}


def _module_path(node: onnx.NodeProto) -> str:
    """Return the path of the module a node comes from, as its exporter noted it; empty if it did not."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    scope, slash, _ = node.name.strip("/").rpartition("/")
    return scope.replace("/", ".") if slash else ""


def name_after_modules(model: onnx.ModelProto) -> None:
    """Rename nodes and their output tensors after the modules they come from; the last node of a module gets its path.

    Graph inputs, outputs and weights keep their names.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    paths = [_module_path(node) for node in graph.node]
    last = {path: index for index, path in enumerate(paths) if path and path not in fixed}
    renamed: dict[str, str] = {}
    for index, (node, path) in enumerate(zip(graph.node, paths, strict=True)):
        if not path:
            continue
        name = path if last.get(path) == index else f"{path}/{node.op_type}_{index}"
        node.name = name
        if len(node.output) == 1 and node.output[0] not in fixed:
            renamed[node.output[0]] = name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)


def clean(model: onnx.ModelProto) -> None:
    """Remove what names this machine (stack traces with paths), and copies of weights made by nodes."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        copy = onnx.TensorProto()
        copy.CopyFrom(weights[node.input[0]])
        copy.name = node.output[0]
        graph.initializer.append(copy)
        graph.node.remove(node)
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _attempt(
    exporter: Exporter, module: torch.nn.Module, batch: torch.Tensor, path: Path
) -> tuple[onnx.ModelProto | None, str]:
    """Run one exporter; return its model, or why it failed."""
    try:
        with warnings.catch_warnings(), silenced():
            warnings.simplefilter("ignore")
            model = _EXPORTERS[exporter](module, batch, path)
    except Exception as error:  # exporters raise anything
        return None, f"{type(error).__name__}: {error}".splitlines()[0][:300]
    name_after_modules(model)
    clean(model)
    return model, ""


def export_onnx(
    module: torch.nn.Module,
    example: torch.Tensor,
    path: Path,
    run: Runner,
    *,
    batch: int = 1,
    exporter: Exporter | None = None,
) -> ExportRecord:
    """Write an ONNX file that was seen to compute what the module computes.

    Args:
        module: In eval mode; returns one tensor.
        example: Real images, float32 ``[n, ...]``.
        path: File to write.
        run: Runs a file on batches.
        batch: Images per inference, fixed in the file.
        exporter: Only this exporter; else the fast one, and the other if its file is wrong.

    Raises:
        ModelFileError: No exporter made a file that agrees with torch; every reason is named.
    """
    import torch

    images = example[:COMPARED_IMAGES].detach().cpu()
    batches = repeat_to_batch(images.numpy(), batch)
    reference = np.concatenate([forward_once(module, torch.from_numpy(part)).numpy() for part in batches])
    refused: dict[str, str] = {}
    for name in (exporter,) if exporter is not None else tuple(_EXPORTERS):
        model, reason = _attempt(name, module, torch.from_numpy(batches[0]), path)
        if model is None:
            refused[name] = reason
            continue
        save_onnx(model, path)
        try:
            error = relative_error(reference, np.concatenate(run(path, batches)))
        except Exception as failure:  # the runtime refuses the file
            refused[name] = f"the file does not run: {failure}".splitlines()[0][:300]
            continue
        if error <= MAX_RELATIVE_L2:
            return ExportRecord(name, OPSETS[name], error, len(images), refused)
        refused[name] = f"outputs differ from torch by {error:.2e} (relative L2, at most {MAX_RELATIVE_L2:.0e})"
    path.unlink(missing_ok=True)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    raise ModelFileError(f"{type(module).__name__} cannot be exported to ONNX. {reasons}.")
