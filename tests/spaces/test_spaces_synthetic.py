from __future__ import annotations

import numpy as np
import pytest

from hwnas.errors import SpaceError
from hwnas.files import digest
from hwnas.spaces.drafting import MOTIFS
from hwnas.spaces.synthetic import SyntheticArchitecture, SyntheticSpace

SMALL = {"side": (4, 24), "macs": 2e7, "elements": 20_000, "parameters": 300_000, "blocks": 3}


def test_every_family_keeps_the_limits() -> None:
    space = SyntheticSpace(**SMALL)
    X = space.sample(np.random.default_rng(0), 220)
    graphs = [space.graph(space.decode(row)) for row in X]
    assert max(graph.macs for graph in graphs) <= 2.1e7
    assert max(layer.elements for graph in graphs for layer in graph.layers[1:]) <= 20_000
    assert {int(family) for family in X[:, 0]} == set(range(len(MOTIFS) + 1))
    ops = {layer.op for graph in graphs for layer in graph.layers}
    assert {"batch_norm", "relu6", "swish", "sigmoid", "concat", "slice", "shuffle", "avg_pool", "max_pool"} <= ops
    assert max(graph.macs for graph in graphs) > 30 * min(graph.macs for graph in graphs)


def test_a_network_depends_on_its_encoding_alone() -> None:
    one, other = SyntheticSpace(**SMALL), SyntheticSpace(**SMALL)
    architecture = SyntheticArchitecture("inverted", 11)
    assert one.graph(architecture) == other.graph(architecture)
    assert one.graph(architecture) != one.graph(SyntheticArchitecture("inverted", 12))
    assert one.decode(one.encode(architecture)) == architecture
    assert one.from_dict(architecture.as_dict()) == architecture
    assert one.graph(one.smallest).macs < one.graph(one.largest).macs


def test_half_of_the_channels_go_through_the_branch_of_a_shuffle() -> None:
    space = SyntheticSpace(**{**SMALL, "families": ("shuffled",)})
    for row in space.sample(np.random.default_rng(1), 10):
        layers = {layer.name: layer for layer in space.graph(space.decode(row)).layers}
        for layer in layers.values():
            if layer.op == "slice":
                (source,) = layer.inputs
                assert layers[source].shape[0] == 2 * layer.shape[0]
                assert layer.start in (0, layer.shape[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": ("plain", "fancy")}, "fancy"),
        ({"families": ()}, "must be some of"),
        ({"side": (64, 8)}, "the smaller one first"),
        ({"macs": 3}, "space.settings.macs"),
        ({"depth": 3}, "space.settings.depth"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SyntheticSpace(**settings)


def test_wrong_networks() -> None:
    space = SyntheticSpace(**SMALL)
    with pytest.raises(SpaceError, match="none of plain"):
        space.encode(SyntheticArchitecture("fancy", 0))
    with pytest.raises(SpaceError, match="family and seed"):
        space.from_dict({"family": "plain"})
    with pytest.raises(SpaceError, match="must lie in"):
        space.decode(np.array([99, 0]))


def test_encodings_of_tables_that_ship_keep_their_meaning() -> None:
    """Drawing otherwise needs another ``generator``: these digests change when a network does."""
    space = SyntheticSpace()
    assert space.digest.startswith("1d34b0d6d6b0")
    drawn = [space.graph(SyntheticArchitecture(family, 5)) for family in (*MOTIFS, "mixed")]
    described = [[[layer.op, list(layer.shape), list(layer.inputs)] for layer in graph.layers] for graph in drawn]
    assert digest(described).startswith("3741980b6f18db7d")
