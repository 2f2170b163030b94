"""The eight spaces of OFAv2: dense skips, parallel blocks, early exits."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_codes import BOTTLENECK, BRANCH_SETS, LayerCodes, sets_of_level, spell_branches

VARIANTS = tuple(itertools.product(("base", "dense", "parallel", "dense-parallel"), ("single", "early")))
OFA = {variant: MobileNetV3Space(blocks=variant[0], exits=variant[1]) for variant in VARIANTS}
by_variant = pytest.mark.parametrize("variant", VARIANTS, ids="-".join)


def used(space: MobileNetV3Space, X: np.ndarray) -> np.ndarray:
    """Codes of the stages before the exit, ``[n, 4]``."""
    start = 3 if space.early else 2
    stages = X[:, start:].reshape(len(X), 5, 4)
    ends = X[:, 2] if space.early else np.full(len(X), 4)
    return stages[np.arange(5) <= ends[:, None]]


def test_spaces_from_before_the_variants_keep_their_digest() -> None:
    space = MobileNetV3Space()
    assert space.digest == "f2e8947e7b395f0dbe30c80f4e281043521be1992552edcee240d75ca7be6403"
    assert OFA["base", "single"].digest == space.digest
    assert not {"blocks", "exits"} & set(space.settings())
    assert len({space.digest for space in OFA.values()}) == 8


@by_variant
def test_encodings_are_the_published_ones(variant: tuple[str, str]) -> None:
    space, codes = OFA[variant], 63 if "parallel" in variant[0] else 9
    ends = [3, 1, 4] if space.early else [3, 1]
    assert space.n_genes == 20 + len(ends) == (23 if space.early else 22)
    assert space.upper.tolist() == ends + [codes] * 20
    assert space.lower.tolist() == [0] * len(ends) + [1, 1, 0, 0] * 5
    assert space.gene_names[: len(ends)] == ("resolution", "width", "exit")[: len(ends)]
    assert MobileNetV3Space(**json.loads(json.dumps(space.settings()))).digest == space.digest


@by_variant
def test_canonical_encodings_round_trip(variant: tuple[str, str]) -> None:
    space = OFA[variant]
    X = np.stack([space.lower, space.upper, *space.sample(np.random.default_rng(0), 300)])
    space.check_bounds(X)
    X = space.repair(X)
    assert np.array_equal(space.repair(X), X)
    for row in X:
        architecture = space.decode(row)
        assert np.array_equal(space.encode(architecture), row)
        assert space.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture
    assert len({space.decode(row) for row in X}) == len({row.tobytes() for row in X})
    assert np.array_equal(space.encode(space.largest), space.upper)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(VARIANTS), st.lists(st.integers(-3, 70), min_size=23, max_size=23))
def test_repair_is_idempotent_within_bounds_and_leaves_no_alias(variant: tuple[str, str], genes: list[int]) -> None:
    space = OFA[variant]
    repaired = space.repair(np.array([genes[: space.n_genes]]))
    space.check_bounds(repaired)
    assert np.array_equal(space.repair(repaired), repaired)
    architecture = space.decode(repaired)
    assert np.array_equal(space.encode(architecture), repaired[0])
    present = used(space, repaired) > 0
    assert (np.diff(present.astype(int), axis=1) <= 0).all()
    assert (present.sum(axis=1) >= 2).all()


def test_wide_codes_go_by_number_of_branches_and_denote_39_layers() -> None:
    codes = LayerCodes((3, 5, 7), (3.0, 4.0, 6.0), parallel=True)
    assert BRANCH_SETS == (1, 2, 4, 3, 5, 6, 7)
    assert codes.highest == 63
    assert codes.decode(63) == (7, 6.0, 7)
    assert [codes.decode(code)[2] for code in range(1, 10)] == [1] * 9
    assert codes.decode(9 * 2 + 3 * 1 + 2 + 1) == (7, 4.0, BOTTLENECK)
    everything = np.arange(64)
    canonical = codes.canonical(everything)
    assert len(np.unique(canonical)) == 1 + 39
    assert np.array_equal(codes.canonical(canonical), canonical)
    assert canonical[[0, 9, 18, 36]].tolist() == [0, 1, 10, 28]
    for code in np.unique(canonical)[1:]:
        assert codes.encode(*codes.decode(int(code))) == code
    assert [sets_of_level(level) for level in (1, 2, 3)] == [(1, 2, 4), (3, 5, 6), (7,)]


def test_genes_of_stages_behind_the_exit_are_fixed() -> None:
    space = OFA["base", "early"]
    row = space.upper
    row[2] = 1
    repaired = space.repair(row)[0]
    assert repaired.tolist() == [3, 1, 1] + [9] * 8 + [1, 1, 0, 0] * 3
    architecture = space.decode(row)
    assert architecture.depths == (4, 4)
    assert len(architecture.as_dict()["stages"]) == 2
    other = row.copy()
    other[11:] = 4
    assert space.decode(other) == architecture


@by_variant
def test_sampling_is_uniform_in_exit_and_branches_and_nearly_so_in_depth(variant: tuple[str, str]) -> None:
    space = OFA[variant]
    X = space.sample(np.random.default_rng(1), 6000)
    if space.early:
        assert np.bincount(X[:, 2]) / len(X) == pytest.approx(np.full(5, 0.2), abs=0.02)
    codes = used(space, X)
    depths = (codes > 0).sum(axis=1)
    assert [float((depths == depth).mean()) for depth in (2, 3, 4)] == pytest.approx([1 / 3, 2 / 9, 4 / 9], abs=0.02)
    if space.parallel:
        sets = np.bincount((codes[codes > 0] - 1) // 9, minlength=7)
        assert sets / sets.sum() == pytest.approx(np.full(7, 1 / 7), abs=0.01)
    assert np.array_equal(X, space.sample(np.random.default_rng(1), 6000))


@by_variant
def test_blocks_cover_the_graph_and_keys_tell_layers_apart(variant: tuple[str, str]) -> None:
    space = OFA[variant]
    layers: dict[str, tuple[object, ...]] = {}
    for row in space.sample(np.random.default_rng(3), 30):
        architecture = space.decode(row)
        graph, blocks = space.graph(architecture), space.blocks(architecture)
        assert list(dict.fromkeys(layer.block for layer in graph.layers)) == [block.name for block in blocks]
        assert [block.name for block in blocks][-1] == "head"
        assert graph.layers[-1].shape == (1000,)
        for block in blocks:
            own = [layer for layer in graph.layers if layer.block == block.name and layer.op != "input"]
            inside = {layer.name for layer in own}
            sizes = [
                (layer.op, layer.shape, layer.kernel, layer.stride, layer.groups, layer.in_channels) for layer in own
            ]
            found = (*sizes, *(tuple(name in inside for name in layer.inputs) for layer in own))
            assert layers.setdefault(block.key, found) == found
    # where a stage changes channels but not the side, the two branches of 1x1 convolutions run the same kernels
    twins = {re.sub(r"in=(\d+),(?!.*out=\1,)(.*stride=1,.*)transform$", r"in=\1,\2pointwise", key) for key in layers}
    assert len(set(layers.values())) == len(twins) >= len(layers) - 8


def test_parallel_keys_say_which_branches_are_on() -> None:
    space = OFA["parallel", "single"]
    row = space.upper
    for index, branches in enumerate(BRANCH_SETS):
        row[3] = 9 * index + 9
        key = space.blocks(space.decode(row))[3].key
        assert key.startswith("parallel:")
        assert f"branches={spell_branches(branches)}" in key
        assert ("mid=0," in key) == (not branches & BOTTLENECK)


def test_dense_stages_add_the_outputs_before_the_last_two() -> None:
    space = MobileNetV3Space(blocks="dense", depths=[2, 3, 4, 5])
    row = space.upper
    row[2 + 5 + 2 :: 5] = 0  # the other stages have two layers and no skip
    row[2 + 2] = 9
    graph = space.graph(space.decode(space.repair(row)[0]))
    sums = {layer.name: layer.inputs for layer in graph.layers if ".skips." in layer.name}
    y = {k: f"stages.0.{k - 1}.{'project.conv' if k == 1 else 'add'}" for k in range(1, 6)}
    assert {name: inputs for name, inputs in sums.items() if name.startswith("stages.0.")} == {
        "stages.0.2.skips.0": (y[3], y[1]),
        "stages.0.3.skips.0": (y[4], y[1]),
        "stages.0.3.skips.1": ("stages.0.3.skips.0", y[2]),
        "stages.0.4.skips.0": (y[5], y[1]),
        "stages.0.4.skips.1": ("stages.0.4.skips.0", y[2]),
        "stages.0.4.skips.2": ("stages.0.4.skips.1", y[3]),
    }
    reads = {layer.name: layer.inputs[0] for layer in graph.layers if layer.name.endswith("expand.conv")}
    assert reads["stages.0.2.expand.conv"] == y[2]
    assert reads["stages.0.3.expand.conv"] == "stages.0.2.skips.0"
    assert reads["stages.1.0.expand.conv"] == "stages.0.4.skips.2"


def test_exits_have_the_published_widths() -> None:
    space = MobileNetV3Space(exits="early", widths=[1.0])
    heads = [plan for plan in space.plan(space.with_exits(space.largest)) if plan.op == "head"]
    assert [(head.mid_channels, head.out_channels) for head in heads] == [
        (144, 192), (240, 320), (480, 640), (672, 896), (960, 1280)
    ]  # fmt: skip
    for index in range(5):
        row = space.upper
        row[2] = index
        head = space.plan(space.decode(row))[-1]
        assert (head.name, head.exit) == ("head", index + 1)
        assert (head.mid_channels, head.out_channels) == (heads[index].mid_channels, heads[index].out_channels)
        assert {layer.block.rpartition(".")[0] for layer in space.graph(space.decode(row)).layers} - {""} == {
            f"stages.{stage}" for stage in range(index + 1)
        }


@by_variant
def test_smallest_and_largest_bound_the_cost(variant: tuple[str, str]) -> None:
    space = OFA[variant]
    low, high = space.graph(space.smallest).macs, space.graph(space.largest).macs
    costs = [space.graph(space.decode(row)).macs for row in space.sample(np.random.default_rng(4), 100)]
    assert low <= min(costs) < max(costs) <= high


def test_an_odd_side_loses_no_pixel_whatever_the_branch() -> None:
    space = MobileNetV3Space(blocks="parallel", resolutions=[33])
    for branches in range(7):
        row = space.lower
        row[2:] = np.where(row[2:] > 0, 9 * branches + 1, 0)
        graph = space.graph(space.decode(row))
        ends = {layer.block: layer.shape[1] for layer in graph.layers if layer.block.startswith("stages")}
        assert [ends[f"stages.{stage}.0"] for stage in range(5)] == [9, 5, 3, 3, 2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blocks": "denser"}, "blocks"),
        ({"exits": "two"}, "exits"),
        ({"exit": "early"}, "did you mean 'exits'"),
        ({"exits": "early", "stages": [{"channels": 8}]}, "exits='early' needs two stages"),
        ({"blocks": "dense", "depths": [1, 2]}, "blocks='dense' skips over layers from depth 3 on.*say blocks: base"),
        ({"blocks": "dense-parallel", "depths": [2]}, "say blocks: parallel"),
    ],
)
def test_bad_settings_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        MobileNetV3Space(**changes)


def test_foreign_architectures_are_refused() -> None:
    space = OFA["parallel", "early"]
    value = space.largest.as_dict()
    stage = value["stages"][0]
    for stages, named in (
        ([*value["stages"], stage], r"number of stages 6 .* allowed: \[1, 2, 3, 4, 5\]"),
        ([{**stage, "branches": stage["branches"][:1]}], "branches of stage 0"),
        ([{**stage, "branches": ["pool"] * 4}], "branches 'pool' are not a set of branches"),
        ([{"kernels": [3, 3], "expands": [3, 3]}], "kernels, expands and branches"),
    ):
        with pytest.raises(SpaceError, match=named):
            space.from_dict({**value, "stages": stages})
    base = OFA["base", "single"]
    for foreign in (space.largest, OFA["base", "early"].smallest):
        with pytest.raises(SpaceError, match="not in space"):
            base.graph(foreign)
    with pytest.raises(SpaceError, match="number of stages with branches"):
        space.encode(base.largest)
    with pytest.raises(SpaceError, match="exits: early"):
        base.with_exits(base.largest)
    with pytest.raises(SpaceError, match="there is but one"):
        base.from_dict({**base.largest.as_dict(), "exits": [4, 5]})
    for exits in ([5], [1, 4], [3, 3, 5], [0, 5], [2, 6]):
        with pytest.raises(SpaceError, match=r"must be several, ascending from 1 on, the last one 5"):
            space.from_dict({**value, "exits": exits})
    for kept in ((), (6,), (0,), (2, 1)):
        with pytest.raises(SpaceError, match=r"exits|stages"):
            space.with_exits(space.largest, kept)
    with pytest.raises(SpaceError, match="has no encoding"):
        space.encode(space.with_exits(space.largest))


@by_variant
def test_a_network_of_several_exits_is_its_trunk_and_their_heads(variant: tuple[str, str]) -> None:
    space = OFA[variant]
    if not space.early:
        assert space.largest.encodable
        return
    for row in space.sample(np.random.default_rng(5), 20):
        architecture = space.decode(row)
        last = len(architecture.kernels)
        every = space.with_exits(architecture)
        assert every.exits == (tuple(range(1, last + 1)) if last > 1 else ())
        assert space.with_exits(every, [last]) == architecture
        assert space.from_dict(json.loads(json.dumps(every.as_dict()))) == every
        single = [space.graph(space.with_exits(architecture, [exit])) for exit in range(1, last + 1)]
        kept = sorted({1, last})
        heads = [sum(layer.macs for layer in graph.layers if layer.block == "head") for graph in single]
        pruned = space.graph(space.with_exits(architecture, kept))
        trunk = single[-1].macs - heads[-1]
        assert space.graph(every).macs == trunk + sum(heads)
        assert pruned.macs == trunk + sum(heads[exit - 1] for exit in kept)
        blocks = [block.name for block in space.blocks(space.with_exits(architecture, kept))]
        assert blocks == list(dict.fromkeys(layer.block for layer in pruned.layers))
        if last > 1:
            sums = [
                layer for layer in space.graph(every).layers if layer.name.startswith("exits") and layer.op == "add"
            ]
            assert len(sums) == last - 1
            assert space.graph(every).layers[-1] == sums[-1]
            assert all(layer.shape == (space.classes,) for layer in sums)
