"""Blocks of OFAv2's spaces as the latency model sees them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from latency_samples import make_rows, make_table

from hwnas.latency.features import PHYSICAL, FeatureExtractor, block_features
from hwnas.latency.indexing import ABSENT, BlockIndexer
from hwnas.latency.model import LatencyModel
from hwnas.latency.sampling import plan_networks
from hwnas.spaces.graph import Layer
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_codes import BRANCH_SETS

VARIANTS = tuple(itertools.product(("base", "dense", "parallel", "dense-parallel"), ("single", "early")))
by_variant = pytest.mark.parametrize("variant", VARIANTS, ids="-".join)


def small(variant: tuple[str, str]) -> MobileNetV3Space:
    stages = [{"channels": 16, "stride": 2}, {"channels": 24, "stride": 2, "se": True, "activation": "hswish"}]
    return MobileNetV3Space(
        classes=10, resolutions=[18, 24], widths=[1.0, 1.5], stem_stride=1, stages=stages, depths=[1, 2, 3],
        kernels=[3, 5], expands=[2, 3], head_channels=[48, 64], blocks=variant[0], exits=variant[1],
    )  # fmt: skip


@by_variant
def test_lookup_gives_what_decoding_gives(variant: tuple[str, str]) -> None:
    space = small(variant)
    quick, slow = BlockIndexer(space), BlockIndexer(space)
    slow.local = False
    for batch in np.array_split(space.sample(np.random.default_rng(4), 200), 3):
        a, b = quick.ids(batch), slow.ids(batch)
        assert quick.local, "a block depends on its own genes only"
        assert [[quick.keys[i] if i != ABSENT else "" for i in row] for row in a] == [
            [slow.keys[i] if i != ABSENT else "" for i in row] for row in b
        ]


@by_variant
def test_totals_equal_the_graph(variant: tuple[str, str]) -> None:
    space = small(variant)
    X = space.sample(np.random.default_rng(0), 20)
    F = FeatureExtractor(space, "fp32").matrix(X)
    macs = [index for index, name in enumerate(PHYSICAL) if name.startswith("macs_")]
    for row, features in zip(X, F, strict=True):
        graph = space.graph(space.decode(row))
        assert features[macs].sum() == graph.macs
        assert features[PHYSICAL.index("weight_bytes")] == 4 * graph.parameters


@pytest.mark.parametrize("blocks", ["parallel", "dense-parallel"])
def test_more_branches_are_never_cheaper(blocks: str) -> None:
    space = small((blocks, "single"))
    extractor, pairs = FeatureExtractor(space, "fp32"), space.n_codes
    X = space.sample(np.random.default_rng(1), 40)
    for gene in range(2, space.n_genes):
        rows = X[X[:, gene] > 0]
        features = {}
        for index, branches in enumerate(BRANCH_SETS):
            changed = rows.copy()
            changed[:, gene] = pairs * index + pairs
            features[branches] = extractor.matrix(changed)
        for few, many in itertools.permutations(BRANCH_SETS, 2):
            if few & many == few:
                assert np.all(features[many] >= features[few])
                assert np.all((features[many] > features[few]).any(axis=1))


def test_longer_dense_stages_add_sums() -> None:
    base, dense = (FeatureExtractor(small((blocks, "single")), "fp32") for blocks in ("base", "dense"))
    X = small(("base", "single")).sample(np.random.default_rng(2), 60)
    column = PHYSICAL.index("elementwise_kernels")
    depths = (X[:, 2:].reshape(len(X), 2, 3) > 0).sum(axis=2)
    assert np.array_equal(dense.matrix(X)[:, column] - base.matrix(X)[:, column], (depths == 3).sum(axis=1))


def test_a_pool_reads_what_it_pools() -> None:
    pool = Layer("b.pool", "max_pool", ("a",), (8, 5, 5), "b", kernel=2, stride=2, ceil=True)
    assert block_features((pool,), "int8")[PHYSICAL.index("activation_bytes")] == 8 * 25 * (1 + 4)


@by_variant
def test_networks_to_measure_hold_the_extremes_and_cover_keys(variant: tuple[str, str]) -> None:
    space = small(variant)
    plan = plan_networks(space, 60, 10, seed=0)
    assert np.array_equal(plan.train[0], space.encode(space.smallest))
    assert np.array_equal(plan.train[1], space.upper)
    assert len({row.tobytes() for row in plan.train}) == 60
    assert plan.coverage > (0.5 if space.parallel else 0.95)


def test_a_model_of_parallel_blocks_and_exits_predicts_and_is_never_cheaper_for_more() -> None:
    space = small(("dense-parallel", "early"))
    plan = plan_networks(space, 80, 40, seed=0)
    rows = make_rows(space, plan.train, "train", 0.01, 1) + make_rows(space, plan.held_out, "held_out", 0.01, 2)
    table = make_table(space, rows)
    model = LatencyModel.fit(table, space)
    true = np.array([row.value for row in rows[80:]])
    assert np.median(np.abs(model.predict(plan.held_out).value / true - 1)) < 0.06
    X = space.sample(np.random.default_rng(1), 60)
    for gene in (3, 4, 6, 8):
        rows_with = X[(X[:, gene] > 0) & (X[:, 2] >= (gene - 3) // 3)]
        predicted = {}
        for index, branches in enumerate(BRANCH_SETS):
            changed = rows_with.copy()
            changed[:, gene] = space.n_codes * index + space.n_codes
            predicted[branches] = model.predict(changed).value
        for few, many in itertools.permutations(BRANCH_SETS, 2):
            if few & many == few:
                assert np.all(predicted[many] >= predicted[few])
