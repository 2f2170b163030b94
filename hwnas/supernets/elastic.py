"""Elastic layers: one set of weights that serves every kernel and expansion of a layer position.

Source: Cai et al., "Once-for-All" (ICLR 2020), section 3.3. A smaller kernel is the centre of the next larger one times
a learned matrix (identity at the start); a narrower layer uses the first channels of the widest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hwnas.spaces.mobilenetv3_codes import branch_names
from hwnas.spaces.mobilenetv3_plan import BlockPlan
from hwnas.supernets.modules import Bottleneck, Parallel
from hwnas.supernets.normalisation import batch_norm

Tensors = dict[str, Tensor]


class ElasticKernel(nn.Module):
    """Derives smaller depthwise kernels from the largest.

    Parameter ``matrix_LtoS`` (``[S*S, S*S]``) turns the flattened centre crop of the L x L kernel into the S x S kernel;
    it is shared by all channels. With kernels 3, 5 and 7 that is 625 + 81 = 706 parameters a layer.

    Args:
        kernels: Sides, ascending.
    """

    def __init__(self, kernels: Sequence[int]) -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        for small, large in itertools.pairwise(self.kernels):
            self.register_parameter(f"matrix_{large}to{small}", nn.Parameter(torch.eye(small * small)))

    def forward(self, weight: Tensor, kernel: int) -> Tensor:
        """Return the ``[c, 1, kernel, kernel]`` weight derived from the largest, ``[c, 1, K, K]``."""
        for small, large in reversed(list(itertools.pairwise(self.kernels))):
            if kernel >= large:
                break
            start = (large - small) // 2
            crop = weight[:, :, start : start + small, start : start + small]
            matrix = self.get_parameter(f"matrix_{large}to{small}")
            weight = F.linear(crop.reshape(-1, small * small), matrix).reshape(-1, 1, small, small)
        return weight


class ElasticBottleneck(Bottleneck):
    """The widest bottleneck of a layer position, and the narrower ones inside it.

    Args:
        plan: The widest block: largest kernel and expansion.
        kernels: Kernel sides, ascending.
    """

    def __init__(self, plan: BlockPlan, kernels: Sequence[int]) -> None:
        super().__init__(plan)
        self.kernel = ElasticKernel(kernels)

    def tensors(self, plan: BlockPlan) -> Tensors:
        """Return the tensors of the narrower block ``plan`` by their names in the static block.

        They are views of (or, for transformed kernels, computed from) the shared weights.
        """
        mid, squeeze = plan.mid_channels, plan.squeeze
        assert self.expand is not None
        found = {
            "expand.conv.weight": self.expand.conv.weight[:mid],
            "depth.conv.weight": self.kernel(self.depth.conv.weight[:mid], plan.kernel),
            "project.conv.weight": self.project.conv.weight[:, :mid],
            **_norm("expand.bn", self.expand.bn, mid),
            **_norm("depth.bn", self.depth.bn, mid),
            **_norm("project.bn", self.project.bn, plan.out_channels),
        }
        if self.se is not None:
            reduce, expand = self.se.reduce, self.se.expand
            assert reduce.bias is not None
            assert expand.bias is not None
            found["se.reduce.weight"] = reduce.weight[:squeeze, :mid]
            found["se.reduce.bias"] = reduce.bias[:squeeze]
            found["se.expand.weight"] = expand.weight[:mid, :squeeze]
            found["se.expand.bias"] = expand.bias[:mid]
        return found

    def run(self, x: Tensor, plan: BlockPlan) -> Tensor:
        """Run the narrower block ``plan`` on ``[b, in, h, w]``; in training mode its slice of the statistics moves."""
        tensors = self.tensors(plan)
        hidden = _activate(self._norm_of(F.conv2d(x, tensors["expand.conv.weight"]), tensors, "expand.bn"), plan)
        hidden = F.conv2d(
            hidden,
            tensors["depth.conv.weight"],
            stride=plan.stride,
            padding=plan.kernel // 2,
            groups=plan.mid_channels,
        )
        hidden = _activate(self._norm_of(hidden, tensors, "depth.bn"), plan)
        if plan.squeeze:
            hidden = hidden * _gate(hidden, tensors)
        hidden = self._norm_of(F.conv2d(hidden, tensors["project.conv.weight"]), tensors, "project.bn")
        return hidden + x if plan.residual else hidden

    def _norm_of(self, x: Tensor, tensors: Tensors, path: str) -> Tensor:
        mean, var = tensors[f"{path}.running_mean"], tensors[f"{path}.running_var"]
        weight, bias = tensors[f"{path}.weight"], tensors[f"{path}.bias"]
        return batch_norm(x, mean, var, weight, bias, self.training)


class ElasticParallel(Parallel):
    """The widest parallel block of a layer position: all branches, the bottleneck elastic; any of them may be off.

    Args:
        plan: The widest block.
        kernels: Kernel sides, ascending.
    """

    def __init__(self, plan: BlockPlan, kernels: Sequence[int]) -> None:
        self._kernels = tuple(kernels)
        super().__init__(plan)

    def make_bottleneck(self, plan: BlockPlan) -> ElasticBottleneck:
        """Return the module of the bottleneck branch."""
        return ElasticBottleneck(plan, self._kernels)

    def tensors(self, plan: BlockPlan) -> Tensors:
        """Return views of the tensors of the block ``plan`` by their names in the static block."""
        found: Tensors = {}
        for name in branch_names(plan.branches):
            branch = self.get_submodule(name)
            part = branch.tensors(plan.bottleneck) if isinstance(branch, ElasticBottleneck) else branch.state_dict()
            found.update({f"{name}.{key}": tensor for key, tensor in part.items()})
        return found

    def run(self, x: Tensor, plan: BlockPlan) -> Tensor:
        """Run the block ``plan`` on ``[b, in, h, w]``."""
        outputs = []
        for name in branch_names(plan.branches):
            branch = self.get_submodule(name)
            outputs.append(branch.run(x, plan.bottleneck) if isinstance(branch, ElasticBottleneck) else branch(x))
        result: Tensor = sum(outputs[1:], outputs[0])
        return result


ElasticLayer = ElasticBottleneck | ElasticParallel
"""A layer position of a supernet, whatever its blocks."""


def make_elastic(plan: BlockPlan, kernels: Sequence[int]) -> ElasticLayer:
    """Return the widest layer of a position."""
    return ElasticParallel(plan, kernels) if plan.op == "parallel" else ElasticBottleneck(plan, kernels)


def _norm(path: str, bn: nn.BatchNorm2d, channels: int) -> Tensors:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    return {
        f"{path}.weight": bn.weight[:channels],
        f"{path}.bias": bn.bias[:channels],
        f"{path}.running_mean": bn.running_mean[:channels],
        f"{path}.running_var": bn.running_var[:channels],
        f"{path}.num_batches_tracked": bn.num_batches_tracked,
    }


def _activate(x: Tensor, plan: BlockPlan) -> Tensor:
    return F.hardswish(x) if plan.activation == "hswish" else F.relu(x)


def _gate(x: Tensor, tensors: Tensors) -> Tensor:
    pooled = F.adaptive_avg_pool2d(x, 1)
    squeezed = F.relu(F.conv2d(pooled, tensors["se.reduce.weight"], tensors["se.reduce.bias"]))
    return F.hardsigmoid(F.conv2d(squeezed, tensors["se.expand.weight"], tensors["se.expand.bias"]))
