from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas import registry
from hwnas.errors import SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import make_divisible

DIGIT_STAGES = [{"channels": 16, "stride": 1}, {"channels": 24, "stride": 2, "se": True, "activation": "hswish"}]


def ofa_space() -> MobileNetV3Space:
    return MobileNetV3Space(classes=1000)


def digits_space() -> MobileNetV3Space:
    return MobileNetV3Space(
        classes=10, in_channels=1, resolutions=[8, 12], widths=[1.0], stem_stride=1, stages=DIGIT_STAGES,
        depths=[1, 2], kernels=[3, 5], expands=[1.5, 2], head_channels=[48, 64],
    )  # fmt: skip


@pytest.fixture(params=[ofa_space, digits_space], ids=["ofa", "digits"])
def space(request: pytest.FixtureRequest) -> MobileNetV3Space:
    made: MobileNetV3Space = request.param()
    return made


def test_ofa_defaults_have_the_published_encoding() -> None:
    space = ofa_space()
    assert space.n_genes == 22
    assert space.upper.tolist() == [3, 1] + [9] * 20
    assert space.lower.tolist() == [0, 0] + [1, 1, 0, 0] * 5
    assert space.gene_names[:3] == ("resolution", "width", "stages.0.0")


def test_encoding_round_trips_and_ids_are_distinct(space: MobileNetV3Space) -> None:
    X = space.sample(np.random.default_rng(0), 300)
    space.check_bounds(X)
    assert np.array_equal(space.repair(X), X)
    for row in X:
        architecture = space.decode(row)
        assert np.array_equal(space.encode(architecture), row)
        assert space.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture
    unique = {row.tobytes() for row in X}
    assert len({space.id_of(row) for row in X}) == len(unique)
    assert len({space.decode(row) for row in X}) == len(unique)


def test_code_names_kernel_and_expansion() -> None:
    space = ofa_space()
    row = space.lower
    row[2], row[3] = 3 * 2 + 1 + 1, 3 * 0 + 2 + 1
    architecture = space.decode(row)
    assert architecture.expands[0] == (6.0, 3.0)
    assert architecture.kernels[0] == (5, 7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 14), min_size=22, max_size=22))
def test_repair_is_idempotent_within_bounds_and_leaves_no_gap(genes: list[int]) -> None:
    space = ofa_space()
    repaired = space.repair(np.array([genes]))
    space.check_bounds(repaired)
    assert np.array_equal(space.repair(repaired), repaired)
    present = repaired[0, 2:].reshape(5, 4) > 0
    assert (np.diff(present.astype(int), axis=1) <= 0).all()
    assert (present.sum(axis=1) >= 2).all()


def test_repair_fills_rather_than_pushes() -> None:
    space = ofa_space()
    row = space.upper
    row[4] = 0
    assert space.repair(row)[0, 2:6].tolist() == [9, 9, 0, 0]


def test_sampling_is_nearly_uniform_in_depth_and_uniform_elsewhere() -> None:
    space = ofa_space()
    X = space.sample(np.random.default_rng(1), 6000)
    depths = (X[:, 2:].reshape(-1, 5, 4) > 0).sum(axis=2)
    shares = [float((depths == depth).mean()) for depth in (2, 3, 4)]
    assert shares == pytest.approx([1 / 3, 2 / 9, 4 / 9], abs=0.015)
    first = np.bincount(X[:, 2], minlength=10)[1:] / len(X)
    assert first == pytest.approx(np.full(9, 1 / 9), abs=0.02)
    assert np.bincount(X[:, 0]) / len(X) == pytest.approx(np.full(4, 0.25), abs=0.03)
    again = space.sample(np.random.default_rng(1), 6000)
    assert np.array_equal(X, again)


def test_graph_and_blocks_cover_each_other(space: MobileNetV3Space) -> None:
    for row in space.sample(np.random.default_rng(2), 10):
        architecture = space.decode(row)
        graph, blocks = space.graph(architecture), space.blocks(architecture)
        names = [block.name for block in blocks]
        assert list(dict.fromkeys(layer.block for layer in graph.layers)) == names
        assert all(layer.name.startswith(f"{layer.block}.") for layer in graph.layers[1:])
        assert graph.input_shape == (space.in_channels, architecture.resolution, architecture.resolution)
        assert graph.layers[-1].shape == (space.classes,)
        assert len(names) == 3 + sum(architecture.depths)


def test_equal_keys_mean_equal_layers_and_other_keys_other_layers() -> None:
    space = ofa_space()
    layers: dict[str, tuple[object, ...]] = {}
    for row in space.sample(np.random.default_rng(3), 40):
        architecture = space.decode(row)
        graph = space.graph(architecture)
        for block in space.blocks(architecture):
            found = tuple(
                (layer.op, layer.shape, layer.kernel, layer.stride, layer.groups, layer.in_channels)
                for layer in graph.layers
                if layer.block == block.name and layer.op != "input"
            )
            assert layers.setdefault(block.key, found) == found
    assert len(set(layers.values())) == len(layers)


def test_smallest_and_largest_bound_the_cost(space: MobileNetV3Space) -> None:
    low, high = space.graph(space.smallest).macs, space.graph(space.largest).macs
    costs = [space.graph(space.decode(row)).macs for row in space.sample(np.random.default_rng(4), 50)]
    assert low <= min(costs) < max(costs) <= high


def test_sides_round_up() -> None:
    space = MobileNetV3Space(classes=10, resolutions=[33])
    shapes = [
        layer.shape[1] for layer in space.graph(space.smallest).layers if layer.op == "conv" and layer.stride == 2
    ]
    assert shapes == [17, 9, 5, 3, 2]


def test_settings_make_the_space_again_and_tell_spaces_apart(space: MobileNetV3Space) -> None:
    again = MobileNetV3Space(**json.loads(json.dumps(space.settings())))
    assert again.digest == space.digest
    assert again.settings() == space.settings()
    changed = {**space.settings(), "classes": space.classes + 1}
    assert MobileNetV3Space(**changed).digest != space.digest


def test_the_registry_knows_the_space() -> None:
    assert registry.load("space", "mobilenetv3") is MobileNetV3Space


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": 1}, "classes"),
        ({"kernal": [3]}, "kernels"),
        ({"kernels": [4]}, "kernels"),
        ({"kernels": [5, 3]}, "kernels"),
        ({"kernels": []}, "kernels"),
        ({"depths": [2, 4]}, "depths"),
        ({"depths": [0, 1]}, "depths"),
        ({"expands": [0.5]}, "expands"),
        ({"widths": [0.0, 1.0]}, "widths"),
        ({"resolutions": [16, 32]}, "total stride 32"),
        ({"stages": []}, "stages"),
        ({"stages": [{"channels": 8, "stride": 3}]}, "stages.0.stride"),
        ({"stages": [{"channels": 8, "activation": "gelu"}]}, "stages.0.activation"),
        ({"head_channels": [0, 5]}, "head_channels"),
        ({"stem_stride": 4}, "stem_stride"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_bad_settings_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        MobileNetV3Space(**{"classes": 10, **changes})


def test_without_settings_it_is_the_published_space_for_imagenet() -> None:
    space = MobileNetV3Space()
    assert (space.classes, space.in_channels, len(space.stages)) == (1000, 3, 5)


def test_foreign_architectures_are_refused() -> None:
    space, value = ofa_space(), ofa_space().largest.as_dict()
    for change, named in (
        ({"resolution": 100}, "resolution 100"),
        ({"width": 3.0}, "width 3.0"),
        ({"stages": value["stages"][:4]}, "number of stages"),
        ({"stages": [{"kernels": [9, 9], "expands": [3, 3]}] * 5}, "kernel in stage 0"),
        ({"stages": [{"kernels": [3, 3], "expands": [3]}] * 5}, "expands of stage 0"),
        ({"stages": [{"kernels": [3], "expands": [3]}] * 5}, "layers of stage 0"),
    ):
        with pytest.raises(SpaceError, match=named):
            space.from_dict({**value, **change})
    with pytest.raises(SpaceError, match="needs resolution, width and stages"):
        space.from_dict({"resolution": 128})
    with pytest.raises(SpaceError, match="22 genes, not 3"):
        space.decode(np.array([0, 0, 1]))
    with pytest.raises(SpaceError, match=r"stages\.0\.0=0"):
        space.decode(np.zeros(22, dtype=np.int64))
    with pytest.raises(SpaceError, match="22 genes, not 3"):
        space.repair(np.zeros((2, 3), dtype=np.int64))
    foreign = digits_space().largest
    with pytest.raises(SpaceError, match="not in space"):
        space.graph(foreign)


def test_make_divisible_never_loses_more_than_a_tenth() -> None:
    assert [make_divisible(value) for value in (1, 8, 11.9, 12, 19, 24 * 1.2, 16 * 1.2)] == [8, 8, 16, 16, 24, 32, 24]
    for value in range(8, 400):
        assert make_divisible(value) % 8 == 0
        assert make_divisible(value) >= 0.9 * value
