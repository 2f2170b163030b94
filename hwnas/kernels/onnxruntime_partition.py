"""What ONNX Runtime computes as one kernel on a CPU.

Its convolutions work on tensors whose channels are *blocked*; sums, and scales per channel, are computed by
convolutions only where the tensors they read are blocked too. Transposes that merge with the change of layout are free.
Not followed here: fusions for transformers (attention, skip connections into normalisations, scales and transposes before
a product), for products that are quantised on the fly, and the blocked layout of global pooling whose input is not blocked.
"""

from __future__ import annotations

from typing import Any

from hwnas.kernels.batch import Kernel
from hwnas.kernels.fusion import BLOCK, Fusion
from hwnas.kernels.graph import OnnxGraph
from hwnas.kernels.partition import Partition, is_number, per_channel
from hwnas.kernels.shapes import attribute
from hwnas.kernels.work import scaling

_KEEP_BLOCKS = ("Relu", "Sigmoid", "Tanh", "HardSigmoid", "Gelu", "Swish", "HardSwish")
_TO_CHANNELS_LAST, _FROM_CHANNELS_LAST = [0, 2, 3, 1], [0, 3, 1, 2]
_POOLS = ("MaxPool", "AveragePool")
_GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool")


class OnnxRuntimePartition(Partition):
    """Kernels of ONNX Runtime."""

    passes_views = False

    def __init__(self, graph: OnnxGraph, fusion: Fusion) -> None:
        super().__init__(graph, fusion)
        self._blocked: set[str] = set()
        self._biased: set[int] = set()
        """Convolutions with a bias: only those take a sum in where tensors are not blocked."""
        self._reordered: set[tuple[str, bool]] = set()

    def place(self, node: Any, inputs: list[str]) -> tuple[int, str] | None:
        """See the base class."""
        placed = self._placed(node, inputs)
        if placed is None:
            return None
        blocked = any(name in self._blocked for name in inputs if self.maker.get(name) == placed[0])
        if blocked:
            self._blocked.add(node.output[0])
        self._reorder(inputs, blocked)
        return placed

    def read(self) -> list[Kernel]:
        """See the base class; changes of layout are kernels too."""
        super().read()
        self._reorder(sorted(self.graph.results & self._blocked), False)
        return list(self.kernels.values())

    def _pass_on(self, node: Any, inputs: list[str]) -> None:
        if inputs and node.op_type != "Transpose":
            self._reorder(inputs[:1], False)
        super()._pass_on(node, inputs)

    def _start(self, node: Any, inputs: list[str]) -> int:
        self._reorder(inputs, self._wants_blocks(node, inputs))
        return super()._start(node, inputs)

    def _wants_blocks(self, node: Any, inputs: list[str]) -> bool:
        if node.op_type == "Conv":
            return self._reads_blocks(node)
        return self._is_scaling(node) or self._makes_blocks(node, inputs)

    def _reorder(self, inputs: list[str], blocked: bool) -> None:
        """Start a change of layout for each tensor that is not as it is wanted and was not changed before."""
        for name in inputs:
            shape = self.graph.known(name)
            if len(shape) != 4 or (name in self._blocked) == blocked or (name, blocked) in self._reordered:
                continue
            self._reordered.add((name, blocked))
            kernel = self.change_of_layout(name, *(() if blocked else (f"ReorderOutput:{name}",)))
            self._keep(kernel, "")

    def _placed(self, node: Any, inputs: list[str]) -> tuple[int, str] | None:
        op = node.op_type
        for name in inputs:
            host = self.single(name)
            if host is None:
                continue
            stage, blocked = self.stages[host], name in self._blocked
            if stage in ("conv", "deconv") and self._folds(node, inputs, stage):
                if op != "Mul":
                    self._biased.add(host)
                return host, stage
            if stage in ("conv", "scale") and op in ("Add", "Sum") and self._sums(node, inputs, host):
                return host, "summed" if blocked else "plain sum"
            inlined = op in self.fusion.inside and node.output[0] in self.graph.results
            if len(inputs) == 1 and op in self._behind(stage) and not inlined:
                return host, "rectified" if op == "Relu" and stage == "conv" else ""
            if stage == "matmul" and op == "Add" and self._is_bias(node, name):
                return host, "gemm" if len(self.graph.known(name)) == 2 else ""
            if stage == "matmul" and op in ("Mul", "Div") and self._scales(node):
                return host, ""
        return None

    def _behind(self, stage: str) -> frozenset[str]:
        return {
            "conv": self.fusion.behind_conv,
            "free conv": self.fusion.behind_conv,
            "plain sum": self.fusion.behind_conv,
            "summed": self.fusion.behind_sum,
            "scale": self.fusion.behind_sum,
            "rectified": frozenset({"Clip"}),
            "gemm": self.fusion.behind_linear,
        }.get(stage, frozenset())

    def _folds(self, node: Any, inputs: list[str], stage: str) -> bool:
        """Return whether constants of a node become part of the weights of the convolution before it."""
        if len(inputs) != 1:
            return False
        if node.op_type == "BatchNormalization":
            return True
        operand = self.graph.operand(node)
        if stage == "deconv" or operand is None or node.op_type not in ("Add", "Mul"):
            return False
        tensor = self.graph.known(inputs[0])
        return (node.op_type == "Mul" and operand == ()) or (
            len(operand) >= len(tensor) - 1 and per_channel(operand, tensor)
        )

    def _sums(self, node: Any, inputs: list[str], host: int) -> bool:
        if len(inputs) != 2 or inputs[0] == inputs[1] or len(node.input) != 2:
            return False
        shapes = [self.graph.known(name) for name in inputs]
        if shapes[0] != shapes[1] or len(shapes[0]) != 4:
            return False
        blocked = [name in self._blocked for name in inputs]
        mine = next(name in self._blocked for name in inputs if self.maker.get(name) == host)
        return all(blocked) if mine else host in self._biased and node.op_type == "Add"

    def _is_bias(self, node: Any, product: str) -> bool:
        """Return whether a sum behind a ``MatMul`` makes a ``Gemm`` of both."""
        other = next((name for name in node.input if name != product), product)
        tensor, added = self.graph.known(product), self.graph.shapes.get(other, ())
        if len(tensor) == 2:
            return len(added) in (1, 2) and added[-1] == tensor[-1] and added[0] in (1, tensor[0], tensor[-1])
        return len(added) == 1 and added[0] == tensor[-1] and other in self.graph.constants

    def _scales(self, node: Any) -> bool:
        fixed = node.input[1] in self.graph.constants or node.op_type == "Mul"
        return fixed and is_number(self.graph.operand(node))

    def _is_scaling(self, node: Any) -> bool:
        """Return whether a node runs as a convolution of one pixel: it scales the channels of a blocked tensor."""
        inputs = self.graph.activations(node)
        if len(inputs) != 1 or inputs[0] not in self._blocked:
            return False
        operand, tensor = self.graph.operand(node), self.graph.known(inputs[0])
        scales = node.op_type == "Mul" and operand is not None and len(operand) >= 3 and per_channel(operand, tensor)
        return node.op_type == "BatchNormalization" or scales

    def is_free(self, node: Any, inputs: list[str]) -> bool:
        """See the base class; between blocked tensors and channels last it is the change of layout that transposes."""
        if super().is_free(node, inputs):
            return True
        order = self.graph.order(node) if node.op_type == "Transpose" else []
        if order == _TO_CHANNELS_LAST:
            return inputs[0] in self._blocked
        readers = self.graph.readers(node.output[0])
        return order == _FROM_CHANNELS_LAST and bool(readers) and all(map(self._reads_blocks, readers))

    def _reads_blocks(self, node: Any) -> bool:
        if node.op_type != "Conv" or not self._blocks_conv(node):
            return False
        return attribute(node, "group", 1) > 1 or self.graph.known(node.input[0])[1] >= BLOCK

    def made(self, node: Any) -> Kernel:
        """See the base class."""
        return scaling(node, self.graph) if self._is_scaling(node) else super().made(node)

    def stage_of(self, node: Any, inputs: list[str]) -> str:
        """See the base class."""
        op, weighted = node.op_type, len(node.input) > 1 and node.input[1] in self.graph.constants
        scales = self._is_scaling(node)
        if scales or self._makes_blocks(node, inputs):
            self._blocked.add(node.output[0])
        if scales:
            return "scale"
        if op == "Conv":
            if len(node.input) > 2 and node.input[2]:
                self._biased.add(self.upcoming)
            return "conv" if weighted else "free conv"
        return {"ConvTranspose": "deconv", "Gemm": "gemm", "MatMul": "matmul"}.get(op, "")

    def _makes_blocks(self, node: Any, inputs: list[str]) -> bool:
        op, shape = node.op_type, self.graph.shapes.get(node.output[0], ())
        if len(shape) != 4:
            return False
        blocked = [name in self._blocked for name in inputs]
        if op == "Conv":
            return self._blocks_conv(node)
        if op in _POOLS or (op in _GLOBAL_POOLS and blocked[0]):
            return shape[1] % BLOCK == 0 and len(node.output) == 1
        if op in _KEEP_BLOCKS or op in ("Resize", "Upsample"):
            return all(blocked)
        if op in ("Add", "Sum"):
            return all(blocked) and len(inputs) == len(node.input)
        if op == "Mul":
            return all(blocked) and len(inputs) == 2 and len({self.graph.known(name) for name in inputs}) == 1
        if op == "Concat":
            aligned = all(self.graph.known(name)[1] % BLOCK == 0 for name in inputs)
            return all(blocked) and aligned and attribute(node, "axis", 0) in (1, -3)
        return False

    def _blocks_conv(self, node: Any) -> bool:
        if node.input[1] not in self.graph.constants:
            return False
        made, per_group = self.graph.known(node.input[1])[:2]
        groups = attribute(node, "group", 1)
        if groups == 1:
            return per_group < BLOCK or per_group % 4 == 0
        return (per_group == 1 and made == groups) or (per_group % BLOCK == 0 and made // groups % BLOCK == 0)
