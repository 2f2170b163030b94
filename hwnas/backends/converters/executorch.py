"""``model.pt2`` to ``model.pte``, lowered to XNNPACK, in float32 or statically quantised to int8.

Beside it goes ``layers.json``: for every part of the program that XNNPACK runs, its nodes in order with the module each
one comes from. XNNPACK tells the times of its kernels without such names; the runtime takes them from there.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

_COMPUTE = ("convolution", "linear", "addmm", "mm", "bmm")


def contiguous(module: Any) -> Any:
    """Return the module with its weights in torch's usual layout.

    Weights in ``channels_last`` would bring operations into the program that XNNPACK does not run.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return module


def quantised(module: Any, weight_bits: int) -> Any:
    """Return the module with int8 activations and int8 weights per channel, calibrated on all images."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    largest = 2 ** (weight_bits - 1) - 1
    settings = xnnpack_quantizer.get_symmetric_quantization_config(
        is_per_channel=True, weight_qmin=-largest, weight_qmax=largest
    )
    prepared = prepare_pt2e(module, xnnpack_quantizer.XNNPACKQuantizer().set_global(settings))
    with torch.no_grad():
        for images in np.load("calibration.npy", allow_pickle=False):
            prepared(torch.from_numpy(images))
    return convert_pt2e(prepared)


def lowered(module: Any, example: torch.Tensor) -> Any:
    """Return the edge program with all that XNNPACK can run in parts of its own."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, (example,))
    return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


def calls(graph: Any) -> Iterator[str]:
    """Yield the names of the operations of a graph, for example ``convolution``."""
    for node in graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "__name__"):
            yield node.target.__name__.removeprefix("aten.").partition(".")[0]


def parts(edge: Any) -> list[Any]:
    """Return the parts that XNNPACK runs, in the order they are called in."""
    module = edge.exported_program().graph_module
    names = [node.args[0].target for node in module.graph.nodes if node.name.startswith("executorch_call_delegate")]
    return [getattr(module, name) for name in names]


def compute_counts(edge: Any) -> tuple[int, int]:
    """Return how many convolutions and matrix products XNNPACK runs, and how many there are."""
    inside = sum(name in _COMPUTE for part in parts(edge) for name in calls(part.original_module.graph))
    return inside, inside + sum(name in _COMPUTE for name in calls(edge.exported_program().graph_module.graph))


def layers(edge: Any) -> list[list[list[str]]]:
    """Return, per part, ``[operation, module path]`` of every XNNPACK node in order."""
    found = []
    for part in parts(edge):
        paths = {node.meta.get("debug_handle"): module_path(node) for node in part.original_module.graph.nodes}
        found.append([[kind, paths.get(handle, "")] for kind, handle in xnnpack_nodes(part.processed_bytes)])
    return found


def module_path(node: Any) -> str:
    """Return the module a node comes from; of a change of precision, which comes from none, that of what it changes."""
    while node.op == "call_function":
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if stack and stack[-1][0]:
            return str(stack[-1][0])
        if not node.all_input_nodes:
            break
        node = node.all_input_nodes[0]
    return ""


def xnnpack_nodes(data: bytes) -> list[tuple[str, int]]:
    """Read operation and debug handle of every node out of what was written for XNNPACK."""
    from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as written
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = written.XNNHeader.from_bytes(data[: written.XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "schema.fbs").write_bytes(written._get_schema_bytes())
        (folder / "graph.bin").write_bytes(data[start : start + header.flatbuffer_size])
        _flatc_decompile(name, str(folder / "schema.fbs"), str(folder / "graph.bin"), ["--raw-binary"])
        text = re.sub(r": -?(inf|nan)\b", ": 0", (folder / "graph.json").read_text())  # bounds, which JSON cannot say
        graph = json.loads(text)
    return [
        (node["xnode_union_type"].lstrip("_").removeprefix("XNN"), node.get("debug_handle", 0))
        for node in graph["xnodes"]
    ]


def outputs() -> None:
    """Write what the file computes of the example images."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program("model.pte").load_method("forward")
    assert method is not None
    batches = np.load("example.npy", allow_pickle=False)
    found = [method.execute([torch.from_numpy(batch)])[0].numpy() for batch in batches]
    np.save("outputs.npy", np.concatenate(found))


def main() -> None:
    """Convert as the request says."""
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    version = importlib.metadata.version
    result = {"converter": f"executorch {version('executorch')} (XNNPACK)"}
    example = torch.from_numpy(np.load("example.npy", allow_pickle=False)[0])
    module = contiguous(torch.export.load("model.pt2").module())
    if request["precision"] == "int8":
        module = quantised(module, request["weight_bits"])
        result["quantiser"] = f"torchao {version('torchao')} pt2e, XNNPACKQuantizer per channel, static"
    edge = lowered(module, example)
    inside, total = compute_counts(edge)
    result["delegated"] = f"{inside} of {total} compute operations run by XNNPACK"
    pathlib.Path("layers.json").write_text(json.dumps(layers(edge)))
    pathlib.Path("model.pte").write_bytes(edge.to_executorch().buffer)
    outputs()
    pathlib.Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
