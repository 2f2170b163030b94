from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from supernet_helpers import disturb
from torch import Tensor, nn

from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.static import FloatArray, StaticNetwork, build_network, folded_weights

SPACES = {
    "ofa": MobileNetV3Space(classes=12, resolutions=[32, 48]),
    "tiny": MobileNetV3Space(
        classes=10, in_channels=1, resolutions=[9], widths=[1], stem_stride=1, head_channels=[48, 64],
        stages=[{"channels": 16, "stride": 2}, {"channels": 24, "stride": 1, "se": True, "activation": "hswish"}],
        depths=[1, 2],
    ),
    **{
        blocks: MobileNetV3Space(
            classes=11 + index, in_channels=1, resolutions=[9], widths=[1], stem_stride=1, head_channels=[48, 64],
            stages=[{"channels": 16, "stride": 2}, {"channels": 24, "stride": 1, "se": True, "activation": "hswish"}],
            depths=[2, 3], blocks=blocks, exits=exits,
        )
        for index, (blocks, exits) in enumerate([("dense", "single"), ("base", "early"), ("dense-parallel", "early")])
    },
}  # fmt: skip


def networks() -> list[StaticNetwork]:
    made = []
    for space in SPACES.values():
        rows = [space.lower, space.upper, *space.sample(np.random.default_rng(5), 3)]
        made += [build_network(space, space.decode(row)) for row in rows]
    return made


NETWORKS = networks()


def run_layer(layer: Layer, inputs: list[Tensor], weights: dict[str, tuple[FloatArray, FloatArray | None]]) -> Tensor:
    x = inputs[0]
    if layer.op in ("conv", "linear"):
        weight, bias = (None if array is None else torch.from_numpy(array) for array in weights[layer.name])
        assert weight is not None
        if layer.op == "linear":
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, 1, layer.groups)
    if layer.op == "add":
        return inputs[0] + inputs[1]
    if layer.op == "max_pool":
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil)
    if layer.op == "mul":
        return inputs[0] * inputs[1]
    simple = {"relu": F.relu, "hswish": F.hardswish, "hsigmoid": F.hardsigmoid, "flatten": lambda t: t.flatten(1)}
    return x.mean(dim=(2, 3), keepdim=True) if layer.op == "global_pool" else simple[layer.op](x)


def run_graph(graph: LayerGraph, x: Tensor, weights: dict[str, tuple[FloatArray, FloatArray | None]]) -> Tensor:
    values = {graph.layers[0].name: x}
    for layer in graph.layers[1:]:
        values[layer.name] = run_layer(layer, [values[name] for name in layer.inputs], weights)
        assert tuple(values[layer.name].shape[1:]) == layer.shape, layer.name
    return values[graph.layers[-1].name]


def images_for(network: StaticNetwork, count: int = 2) -> Tensor:
    side = network.architecture.resolution
    return torch.randn(count, network.space.in_channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda net: f"{net.space.classes}-{net.architecture.depths}")
def test_every_layer_is_the_module_of_its_name(network: StaticNetwork) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    macs = 0

    def look(path: str, module: nn.Module, output: Tensor) -> None:
        nonlocal macs
        seen[path] = tuple(output.shape[1:])
        if isinstance(module, nn.Conv2d):
            macs += module.weight.numel() * output.shape[2] * output.shape[3]
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()

    hooks = [
        module.register_forward_hook(lambda module, _, output, path=path: look(path, module, output))
        for path, module in network.named_modules()
        if not list(module.children()) and not isinstance(module, nn.BatchNorm2d)
    ]
    network.eval()
    network(images_for(network))
    for hook in hooks:
        hook.remove()
    graph = network.space.graph(network.architecture)
    assert seen == {layer.name: layer.shape for layer in graph.layers[1:]}
    assert list(seen) == [layer.name for layer in graph.layers[1:]]
    assert macs == graph.macs


@pytest.mark.parametrize("network", NETWORKS, ids=lambda net: f"{net.space.classes}-{net.architecture.depths}")
def test_folded_weights_make_the_graph_compute_the_network(network: StaticNetwork) -> None:
    disturb(network)
    network.eval()
    graph, weights, x = network.space.graph(network.architecture), folded_weights(network), images_for(network)
    parametric = {layer.name: layer for layer in graph.layers if layer.weight_shape}
    assert set(weights) == set(parametric)
    for name, (weight, bias) in weights.items():
        assert weight.shape == parametric[name].weight_shape
        assert (bias is not None) == parametric[name].bias
    assert sum(w.size + (0 if b is None else b.size) for w, b in weights.values()) == graph.parameters
    with torch.no_grad():
        expected = network(x)
        assert torch.allclose(run_graph(graph, x, weights), expected, atol=1e-4 * float(expected.abs().max()))


def test_weights_come_from_the_seed_alone() -> None:
    space = SPACES["tiny"]
    torch.manual_seed(1)
    one, two = build_network(space, space.largest, seed=3), build_network(space, space.largest, seed=3)
    other = build_network(space, space.largest, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.state_dict()["stem.conv.weight"], other.state_dict()["stem.conv.weight"])
    state = torch.random.get_rng_state()
    build_network(space, space.largest)
    assert torch.equal(state, torch.random.get_rng_state())


def test_network_trains_channels_last() -> None:
    space = SPACES["tiny"]
    network = build_network(space, space.largest)
    x = images_for(network, 4).to(memory_format=torch.channels_last)
    hidden = network.get_submodule("stem")(x)
    assert hidden.is_contiguous(memory_format=torch.channels_last)
    network(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
