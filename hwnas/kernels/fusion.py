"""What each runtime rewrites and computes as one kernel on a CPU, found out by experiment and held to it by tests.

ONNX Runtime 1.31 and OpenVINO 2026.4 on a processor with AVX-512; other versions and processors may differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hwnas.kernels.pieces import ONNXRUNTIME_PIECES, OPENVINO_PIECES, Tree
from hwnas.kernels.work import GATES, UNARY

BLOCK = 16
"""Channels that ONNX Runtime keeps together where a tensor is in its blocked layout (AVX-512; 8 with AVX2)."""


@dataclass(frozen=True)
class Fusion:
    """What a runtime does to the operations of a graph.

    Attributes:
        pieces: Operations that it recognises where a file spells them out.
        inside: Those that it recognises, and fuses, only where they make no result of the graph.
        drops_dead: Whether operations whose results nobody reads are left out.
        pads: Operations that do the padding before them.
        behind_conv: Operations of one input behind a convolution.
        behind_linear: The same behind a matrix product with a weight.
        behind_sum: Those behind the sum of a convolution with another tensor, where they are not those behind it alone.
        alone: Element-wise operations that nothing is joined with.
        passes_on: Operations that do nothing if they have one input.
        folds_ahead: Whether scales before a convolution become part of its weights, and concatenations of one another one.
        sinks: Operations behind which transposes are moved.
        gates: Operations that cost more than a comparison where they are fused.
        several: Operation -> kinds of the kernels that it is run as, the last one named after it.
    """

    pieces: dict[str, tuple[Tree, ...]]
    drops_dead: bool
    pads: tuple[str, ...]
    behind_conv: frozenset[str]
    behind_linear: frozenset[str]
    gates: frozenset[str]
    behind_sum: frozenset[str] = frozenset()
    inside: frozenset[str] = frozenset()
    alone: frozenset[str] = frozenset()
    passes_on: tuple[str, ...] = ()
    folds_ahead: bool = False
    sinks: frozenset[str] = frozenset()
    several: dict[str, tuple[str, ...]] = field(default_factory=dict)


ELEMENTWISE = UNARY | {"Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "Where", "BatchNormalization", "Equal"}
"""Operations that compute an element from elements."""

_ORT_BLOCKED = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid"})
_ORT_SUM = _ORT_BLOCKED | {"HardSwish"}
_ORT_CONV = _ORT_SUM | {"LeakyRelu", "Clip"}
_OPENVINO_ALONE = frozenset({"HardSigmoid", "Selu", "Sign", "Sin", "Cos", "Log", "Softplus", "Mish"})
_OPENVINO = frozenset(
    {"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "HSigmoid", "Elu", "PRelu", "Softplus", "Gelu"}
    | {"Mish", "Sqrt", "Abs", "Swish", "Round", "Neg"}
)
FUSIONS = {
    "onnxruntime": Fusion(
        pieces=ONNXRUNTIME_PIECES,
        inside=frozenset({"HardSwish", "FastGelu"}),
        drops_dead=False,
        pads=("Conv", "MaxPool", "AveragePool"),
        behind_conv=_ORT_CONV,
        behind_sum=_ORT_SUM,
        gates=GATES | {"Clip", "LeakyRelu"},  # all but Relu are a pass of their own over what a convolution wrote
        behind_linear=_ORT_BLOCKED | {"LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "ThresholdedRelu"},
        sinks=frozenset(ELEMENTWISE - {"BatchNormalization", "PRelu"}),
        several={"HardSwish": ("elementwise", "mul"), "Mish": ("elementwise", "elementwise", "mul")},
    ),
    "openvino": Fusion(
        pieces=OPENVINO_PIECES,
        drops_dead=True,
        pads=("Conv", "AveragePool"),
        behind_conv=_OPENVINO,
        behind_linear=_OPENVINO,
        gates=GATES,
        alone=_OPENVINO_ALONE,
        passes_on=("Concat",),
        folds_ahead=True,
        several={"LayerNormalization": ("reduce", "add", "norm", "elementwise")},
    ),
}
"""Runtime -> what it does."""
