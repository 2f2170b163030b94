from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwnas.errors import SpaceError
from hwnas.latency.features import PHYSICAL, FeatureExtractor, stage_of
from hwnas.latency.indexing import ABSENT, BlockIndexer
from hwnas.latency.sampling import plan_networks, stratified
from hwnas.spaces.base import Block
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space

MACS = [index for index, name in enumerate(PHYSICAL) if name.startswith("macs_")]


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_totals_equal_the_graph(space: MobileNetV3Space, precision: str, width: int) -> None:
    X = space.sample(np.random.default_rng(0), 30)
    F = FeatureExtractor(space, precision).matrix(X)
    for row, features in zip(X, F, strict=True):
        graph = space.graph(space.decode(row))
        assert features[MACS].sum() == graph.macs
        assert features[PHYSICAL.index("weight_bytes")] == width * graph.parameters
        assert features[PHYSICAL.index("input_elements")] == 3 * space.decode(row).resolution ** 2


def test_op_classes_and_stages(space: MobileNetV3Space) -> None:
    extractor = FeatureExtractor(space, "fp32")
    F = extractor.matrix(np.stack([space.encode(space.smallest), space.encode(space.largest)]))
    column = {name: index for index, name in enumerate(extractor.names)}
    assert F[0, column["depthwise_outputs"]] > 0
    assert F[0, column["depthwise7_outputs"]] == 0
    assert F[1, column["depthwise7_outputs"]] > 0
    assert F[1, column["squeeze_excites"]] == 3
    assert F[1, column["stages.0:depth"]] == 3
    assert F[0, column["stages.0:depth"]] == 1
    assert F[1, column["blocks"]] == 9
    assert np.all(F[1] >= F[0])


def test_lookup_gives_what_decoding_gives(space: MobileNetV3Space) -> None:
    quick, slow = BlockIndexer(space), BlockIndexer(space)
    slow.local = False
    X = space.sample(np.random.default_rng(4), 300)
    for batch in np.array_split(X, 3):
        a, b = quick.ids(batch), slow.ids(batch)
        assert quick.local
        assert [[quick.keys[i] if i != ABSENT else "" for i in row] for row in a] == [
            [slow.keys[i] if i != ABSENT else "" for i in row] for row in b
        ]


class EntangledSpace(MobileNetV3Space):
    """A space whose second block depends on a gene that is not its own."""

    def blocks(self, architecture: MobileNetV3Architecture) -> tuple[Block, ...]:
        kernel = architecture.kernels[1][0]
        return tuple(
            Block(block.name, f"{block.key},other={kernel}") if block.name == "stages.0.0" else block
            for block in super().blocks(architecture)
        )


def test_a_space_with_entangled_blocks_is_noticed_and_decoded(space: MobileNetV3Space) -> None:
    entangled = EntangledSpace(**space.settings())
    indexer = BlockIndexer(entangled)
    X = entangled.sample(np.random.default_rng(0), 200)
    ids = indexer.ids(X)
    assert not indexer.local
    for row, row_ids in zip(X, ids, strict=True):
        keys = {block.name: block.key for block in entangled.blocks(entangled.decode(row))}
        assert {
            name: indexer.keys[i] for name, i in zip(indexer.positions, row_ids, strict=True) if i != ABSENT
        } == keys


def test_bad_encodings_are_refused_and_none_is_fine(space: MobileNetV3Space) -> None:
    extractor = FeatureExtractor(space, "fp32")
    bad: Any = space.encode(space.largest) + 1
    with pytest.raises(SpaceError, match="resolution"):
        extractor.matrix(bad)
    assert extractor.matrix(np.zeros((0, space.n_genes), dtype=np.int64)).shape == (0, len(extractor.names))


def test_stage_names() -> None:
    assert stage_of("stages.1.0") == "stages.1"
    assert stage_of("stem") == "stem"


def test_plan_holds_extremes_covers_blocks_and_keeps_judges_apart(space: MobileNetV3Space) -> None:
    plan = plan_networks(space, 40, 15, seed=3)
    assert plan.train.shape == (40, space.n_genes)
    assert plan.held_out.shape == (15, space.n_genes)
    train = {row.tobytes() for row in plan.train}
    assert len(train) == 40
    assert not train & {row.tobytes() for row in plan.held_out}
    assert space.encode(space.smallest).tobytes() == plan.train[0].tobytes()
    assert space.encode(space.largest).tobytes() == plan.train[1].tobytes()
    assert plan.coverage == 1.0
    indexer = BlockIndexer(space)
    covering = set(indexer.ids(plan.train[: plan.n_covering]).ravel().tolist())
    everything = set(indexer.ids(space.sample(np.random.default_rng(8), 2000)).ravel().tolist())
    assert everything <= covering | {ABSENT}


def test_judges_do_not_depend_on_how_many_are_trained_on(space: MobileNetV3Space) -> None:
    first, second = plan_networks(space, 30, 12, seed=1), plan_networks(space, 60, 12, seed=1)
    assert np.array_equal(first.held_out, second.held_out)
    again = plan_networks(space, 30, 12, seed=1)
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.held_out, plan_networks(space, 30, 12, seed=2).held_out)


def test_stratified_reaches_small_and_large() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(15, 0.3, 3000))
    chosen = stratified(sizes, [0, 1], 30, rng)
    assert len(set(chosen)) == 30
    assert not {0, 1} & set(chosen)
    assert np.std(np.log(sizes[chosen])) > 1.5 * np.std(np.log(sizes))


def test_too_small_a_space_is_an_error() -> None:
    tiny = MobileNetV3Space(
        classes=2, resolutions=(32,), widths=(1.0,), kernels=(3,), expands=(3,), depths=(1, 2), stages=[{"channels": 8}]
    )
    with pytest.raises(SpaceError, match="too few architectures"):
        plan_networks(tiny, 10, 1, seed=0)
