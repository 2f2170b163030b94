"""What each runtime computes as one kernel, written down per runtime and held to what it really runs by tests."""

from __future__ import annotations

from dataclasses import dataclass

UNARY = {
    *("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Elu", "Selu", "PRelu", "Softplus"),
    *("Gelu", "Mish", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Reciprocal", "Pow", "Swish"),
}
"""Element-wise operations of one input."""


@dataclass(frozen=True)
class Fusion:
    """What a runtime computes together with a convolution or matrix product before it.

    Attributes:
        behind_conv: Operations of one input behind a convolution.
        behind_linear: The same behind a matrix product.
        sums: Whether the sum of a convolution with another tensor is computed with it.
        behind_sum: Operations of one input behind such a sum.
        norm_is_conv: Whether a batch normalisation that is not folded into a convolution runs as one.
        chains: Whether element-wise operations behind one another are one kernel.
        slices: Whether slices of one tensor are cut by one kernel.
        splits: Operations that, where they stay alone, run as two kernels: their second factor, and the product.
    """

    behind_conv: frozenset[str]
    behind_linear: frozenset[str]
    sums: bool
    behind_sum: frozenset[str]
    norm_is_conv: bool = False
    chains: bool = False
    splits: frozenset[str] = frozenset()
    slices: bool = False


_ORT = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"})
_ORT_CONV = _ORT | {"Clip", "HardSwish"}
_OPENVINO = frozenset(UNARY) - {"HardSigmoid"}
FUSIONS = {
    "onnxruntime": Fusion(
        _ORT_CONV,
        _ORT,
        sums=True,
        behind_sum=_ORT_CONV,
        norm_is_conv=True,
        splits=frozenset({"HardSwish"}),
        slices=True,
    ),
    "openvino": Fusion(_OPENVINO, _OPENVINO, sums=True, behind_sum=_OPENVINO, chains=True, slices=True),
}
"""Runtime -> what it fuses on a CPU."""
