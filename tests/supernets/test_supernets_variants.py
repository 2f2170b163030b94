"""The eight supernets of OFAv2."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from supernet_helpers import SETTINGS, STAGES, disturb
from torch import Tensor

from hwnas.config import DataSection, PhaseSection, TrainSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.errors import ConfigError, SpaceError
from hwnas.spaces.mobilenetv3 import MobileNetV3Architecture, MobileNetV3Space
from hwnas.supernets.evaluation import AccuracyEvaluator
from hwnas.supernets.exits import exit_weights
from hwnas.supernets.folding import act_in_place, fold_in_place
from hwnas.supernets.mobilenetv3 import MobileNetV3Supernet
from hwnas.supernets.phases import phases_of
from hwnas.supernets.static import folded_weights
from hwnas.supernets.steps import LossSetting, accumulate, soft_labels
from hwnas.supernets.storage import load_supernet
from hwnas.supernets.training import train_supernet

VARIANTS = tuple(itertools.product(("base", "dense", "parallel", "dense-parallel"), ("single", "early")))
by_variant = pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
STAGES_3 = [*STAGES, {"channels": 24, "stride": 1, "activation": "hswish", "se": True}]


def space_of(variant: tuple[str, str], **changes: object) -> MobileNetV3Space:
    blocks, exits = variant
    settings = {**SETTINGS, "stages": STAGES_3, "depths": [1, 2, 3, 4], "resolutions": [8, 11]}
    return MobileNetV3Space(**{**settings, "blocks": blocks, "exits": exits, **changes})


def disturbed(space: MobileNetV3Space) -> MobileNetV3Supernet:
    supernet = MobileNetV3Supernet(space)
    disturb(supernet)
    return supernet.eval()


def images(space: MobileNetV3Space, count: int = 2, side: int = 11) -> Tensor:
    return torch.randn(count, space.in_channels, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@by_variant
def test_extraction_computes_what_the_supernet_computes(variant: tuple[str, str]) -> None:
    supernet = disturbed(space_of(variant, widths=[1.0, 1.5]))
    space = supernet.space
    x = images(space)
    for row in [space.lower, space.upper, *space.sample(np.random.default_rng(0), 25)]:
        architecture = space.decode(row)
        supernet.set_active(architecture)
        logits = supernet(x)
        assert torch.allclose(supernet.extract(architecture)(x), logits, atol=1e-5)
        if space.early:
            several = space.with_exits(architecture)
            every = supernet.exit_logits(x)
            assert torch.equal(every[-1], logits)
            assert len(every) == len(architecture.kernels)
            found = supernet.extract(several).exit_logits(x)
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, every, strict=True))
            supernet.set_active(several)
            assert torch.allclose(supernet(x), sum(every), atol=1e-5)
            assert torch.allclose(supernet.extract(several)(x), sum(every), atol=1e-5)


@torch.no_grad()
def test_merged_weights_change_nothing_but_the_classifiers() -> None:
    supernet = disturbed(space_of(("dense-parallel", "early")))
    space = supernet.space
    x = images(space)
    weights = (0.7, 0.3)
    for index, head in enumerate(supernet.engines[0].exits):
        head.classifier.bias.uniform_(1, 2, generator=torch.Generator().manual_seed(index))
    network = supernet.extract_exits(space.with_exits(space.largest, [1, 3]), weights)
    before = network(x)
    first, last = network.exit_logits(x)
    merged = network.merged()
    assert torch.allclose(before, 0.7 * first + 0.3 * last, atol=1e-6)
    assert torch.allclose(merged(x), before, atol=1e-5)
    assert torch.equal(network(x), before)
    state = network.state_dict()
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == {f"exits.{index}.classifier.{name}" for index in (0, 2) for name in ("weight", "bias")}
    supernet.set_active(network.architecture)
    kept = supernet.exit_logits(x)
    assert len(kept) == 2
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(kept, (first, last), strict=True))
    assert set(folded_weights(merged)) == {
        layer.name for layer in space.graph(network.architecture).layers if layer.weight_shape
    }


@torch.no_grad()
@by_variant
def test_sorting_channels_leaves_the_largest_network_as_it_is(variant: tuple[str, str]) -> None:
    supernet = disturbed(space_of(variant))
    x = images(supernet.space)
    before = supernet.teacher()(x)
    state = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.sort_channels()
    assert any(not torch.equal(state[name], tensor) for name, tensor in supernet.state_dict().items())
    assert torch.allclose(supernet.teacher()(x), before, atol=1e-4 * float(before.abs().max()))


@torch.no_grad()
def test_dense_stages_compute_the_published_sums() -> None:
    supernet = disturbed(space_of(("dense", "single")))
    network = supernet.extract(supernet.space.largest)
    x = network.get_submodule("first")(network.get_submodule("stem")(images(supernet.space)))
    y = [x]
    layers = [network.get_submodule(f"stages.0.{position}") for position in range(4)]
    for layer in layers[:3]:
        y.append(layer(y[-1]))
    y.append(layers[3](y[3] + y[1]))
    end = next(network.stage_outputs(images(supernet.space)))
    assert torch.allclose(end, y[4] + y[1] + y[2], atol=1e-5)


@torch.no_grad()
def test_a_parallel_block_sums_the_branches_that_are_on() -> None:
    space = space_of(("parallel", "single"))
    supernet = disturbed(space)
    block = supernet.engines[0].get_submodule("stages.0.0")
    x = images(space, side=11)[:, :1].expand(-1, 16, -1, -1)
    parts = {}
    for branches in (1, 2, 4):
        plan = space.plan(one_kind(space, branches))[2]
        parts[branches] = block.run(x, plan)
        assert parts[branches].shape[2:] == (6, 6)
    for branches in (3, 5, 6, 7):
        expected = sum(part for bit, part in parts.items() if branches & bit)
        assert torch.allclose(block.run(x, space.plan(one_kind(space, branches))[2]), expected, atol=1e-5)


def one_kind(space: MobileNetV3Space, branches: int) -> MobileNetV3Architecture:
    sets = tuple((branches,) * depth for depth in space.largest.depths)
    return dataclasses.replace(space.largest, branches=sets)


@torch.no_grad()
def test_a_transformation_that_keeps_its_channels_is_a_batch_normalisation() -> None:
    space = space_of(("parallel", "single"))
    network = MobileNetV3Supernet(space).extract(one_kind(space, 1)).train()
    block = network.get_submodule("stages.0.1.transform")
    x = torch.randn(8, 16, 5, 5)
    assert torch.equal(block.conv.weight, torch.ones(16, 1, 1, 1))
    assert torch.allclose(block(x), F.relu(F.batch_norm(x, None, None, training=True)), atol=1e-5)


@pytest.mark.parametrize("blocks", ["base", "dense-parallel"])
def test_a_network_holds_nothing_of_the_stages_behind_its_exit(blocks: str) -> None:
    supernet = disturbed(space_of((blocks, "early")))
    space = supernet.space
    for last in (1, 2, 3):
        row = space.upper
        row[2] = last - 1
        architecture = space.decode(row)
        names = set(supernet.extract(architecture).state_dict())
        assert {name.split(".")[1] for name in names if name.startswith("stages.")} == {str(i) for i in range(last)}
        kept = {name for name in names if not name.startswith("head.")}
        several = set(supernet.extract(space.with_exits(architecture)).state_dict())
        assert kept < several
        if last > 1:
            assert {name.split(".")[1] for name in several - kept} == {str(i) for i in range(last)}
        assert set(folded_weights(supernet.extract(architecture))) == {
            layer.name for layer in space.graph(architecture).layers if layer.weight_shape
        }


def test_exit_weights() -> None:
    assert exit_weights("uniform", 4) == (0.25,) * 4
    assert exit_weights("ascending", 5) == pytest.approx((1 / 15, 2 / 15, 3 / 15, 4 / 15, 5 / 15))
    assert exit_weights("descending", 5) == exit_weights("ascending", 5)[::-1]


@torch.no_grad()
def test_the_teacher_speaks_with_all_exits() -> None:
    supernet = disturbed(space_of(("base", "early")))
    x = images(supernet.space)
    supernet.set_active(supernet.space.largest)
    logits = supernet.exit_logits(x)
    teacher = supernet.teacher("descending")
    expected = F.softmax(3 / 6 * logits[0] + 2 / 6 * logits[1] + 1 / 6 * logits[2], dim=1)
    soft = soft_labels(teacher, x, LossSetting(distillation=1.0))
    assert soft is not None
    assert torch.allclose(soft, expected, atol=1e-5)
    single = disturbed(space_of(("base", "single")))
    assert torch.allclose(single.teacher("descending")(x), single(x), atol=1e-5)
    with pytest.raises(SpaceError, match="exits: early"):
        single.space.with_exits(single.space.largest)


def test_all_exits_train_by_the_weighted_sum_of_their_losses() -> None:
    supernet = disturbed(space_of(("base", "early")))
    x, labels = images(supernet.space, 6), torch.arange(6)
    supernet.set_active(supernet.space.largest)
    losses = [F.cross_entropy(logits, labels) for logits in supernet.exit_logits(x)]
    setting = LossSetting(exits=(0.5, 0.3, 0.2))
    found = accumulate(supernet, [supernet.space.largest], (x, labels), None, setting)
    assert found == pytest.approx(float((0.5 * losses[0] + 0.3 * losses[1] + 0.2 * losses[2]).detach()))
    trained = [all(p.grad is not None for p in head.parameters()) for head in supernet.engines[0].exits]
    assert trained == [True] * 3


def test_published_phases_shrink_branches_and_exits_before_depth() -> None:
    full = MobileNetV3Space(blocks="dense-parallel", exits="early")
    phases = phases_of(TrainSection(epochs=90), full)
    assert [phase.name for phase in phases] == [
        "full", "kernel", "level-1", "level-2", "exit-1", "exit-2", "exit-3", "exit-4", "depth-1", "depth-2",
        "expand-1", "expand-2",
    ]  # fmt: skip
    assert [phase.choices.level for phase in phases][1:5] == [(3,), (2, 3), (1, 2, 3), (1, 2, 3)]
    assert [phase.choices.exit for phase in phases][3:8] == [
        (5,), (4, 5), (3, 4, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)
    ]  # fmt: skip
    assert [phase.all_exits for phase in phases] == [True] * 4 + [False] * 8
    assert sum(phase.epochs for phase in phases) == pytest.approx(90)
    shares = {phase.name: phase.epochs / phases[0].epochs * 180 for phase in phases}
    assert [shares[f"exit-{i}"] for i in (1, 2, 3, 4)] == pytest.approx([25, 65, 95, 125])
    assert [phase.subnets for phase in phases] == [1, 1] + [2] * 8 + [4, 4]
    names = [phase.name for phase in phases_of(TrainSection(), space_of(("base", "early"), kernels=[3]))]
    assert names == ["full", "exit-1", "exit-2", "depth-1", "depth-2", "expand-1", "expand-2"]
    assert "exit-1" not in [phase.name for phase in phases_of(TrainSection(), space_of(("parallel", "single")))]


def test_given_phases_name_levels_and_exits() -> None:
    space = space_of(("parallel", "early"))
    given = (
        PhaseSection(name="a", epochs=1),
        PhaseSection(name="b", epochs=1, level=(2, 3)),
        PhaseSection(name="c", epochs=1, exit=(1, 2, 3), level=(1, 2, 3)),
    )
    a, b, c = phases_of(TrainSection(phases=given), space)
    assert (a.choices.level, a.choices.exit, a.all_exits) == ((3,), (3,), True)
    assert (b.choices.level, b.choices.exit, b.all_exits) == ((2, 3), (3,), True)
    assert (c.choices.level, c.choices.exit, c.all_exits) == ((1, 2, 3), (1, 2, 3), False)
    rng = np.random.default_rng(0)
    drawn = [c.sample(space, rng, 1.0) for _ in range(300)]
    assert np.bincount([len(architecture.kernels) for architecture in drawn])[1:] / 300 == pytest.approx(
        np.full(3, 1 / 3), abs=0.08
    )
    levels = [layer.bit_count() for architecture in drawn for stage in architecture.branches for layer in stage]
    assert np.bincount(levels)[1:] / len(levels) == pytest.approx(np.full(3, 1 / 3), abs=0.05)
    assert {architecture.depths for architecture in drawn} == {(4,), (4, 4), (4, 4, 4)}
    smallest, largest = (c.extreme(space, 1.0, largest=largest) for largest in (False, True))
    assert largest == space.largest
    assert smallest.branches == ((1,) * 4,)
    for architecture in (*drawn, smallest):
        space.encode(architecture)


@pytest.mark.parametrize(
    ("variant", "wrong", "message"),
    [
        (("base", "early"), {"level": (2, 3)}, r"train\.phases\[odd\]\.level=.*blocks: parallel"),
        (("parallel", "single"), {"exit": (2, 3)}, r"train\.phases\[odd\]\.exit=.*exits: early"),
        (("base", "early"), {"exit": (3, 4)}, r"exit=\[3, 4\] must be the last one or more .* \[1, 2, 3\]"),
        (("parallel", "single"), {"level": (1, 2)}, r"level=\[1, 2\] must be the last one or more"),
    ],
)
def test_phases_the_space_does_not_have_are_refused(
    variant: tuple[str, str], wrong: dict[str, tuple[int, ...]], message: str
) -> None:
    section = TrainSection(phases=(PhaseSection(name="odd", epochs=1, **wrong),))
    with pytest.raises(ConfigError, match=message):
        phases_of(section, space_of(variant))


def test_sections_without_new_keys_are_written_as_before() -> None:
    old = TrainSection(phases=(PhaseSection(name="a", epochs=1),)).model_dump(mode="json")
    assert not {"exit_loss", "exit_ensemble"} & set(old)
    assert set(old["phases"][0]) == {"name", "epochs", "kernel", "expand", "depth", "learning_rate", "subnets"}
    new = TrainSection(exit_loss="uniform", phases=(PhaseSection(name="a", epochs=1, exit=(1,)),))
    written = new.model_dump(mode="json")
    assert (written["exit_loss"], written["phases"][0]["exit"]) == ("uniform", [1])
    assert TrainSection.model_validate(written) == new


@pytest.fixture(scope="module")
def few(data: ImageData) -> ImageData:
    return load_data(DataSection(source="digits", image_size=8, max_train=400))


def test_training_of_every_choice_goes_on_to_the_same_weights_and_learns(few: ImageData, tmp_path: Path) -> None:
    space = space_of(("dense-parallel", "early"), kernels=[3, 5], depths=[1, 2, 3], expands=[2, 3], resolutions=[8])
    section = TrainSection(epochs=12, batch_size=32, learning_rate=0.1, bn_images=128)
    straight = MobileNetV3Supernet(space, seed=1)
    report = train_supernet(straight, few, section, tmp_path / "straight")
    assert report.complete
    assert report.accuracies["largest"] > 0.25, "well above chance, after a hundred steps"
    stopping = MobileNetV3Supernet(space, seed=1)
    steps = 0

    class Stopped(Exception):
        pass

    def stop(count: float, note: str) -> None:
        nonlocal steps
        steps += int(count)
        if note.startswith("exit-1") and steps > 60:
            raise Stopped

    often = section.model_copy(update={"checkpoint_minutes": 1e-6})
    with pytest.raises(Stopped):
        train_supernet(stopping, few, often, tmp_path / "stopped", progress=stop)
    again = MobileNetV3Supernet(space, seed=5)
    assert train_supernet(again, few, often, tmp_path / "stopped").accuracies == report.accuracies
    for one, two in zip(straight.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    loaded = load_supernet(tmp_path / "straight")
    evaluator = AccuracyEvaluator(loaded, few, bn_images=128)
    assert evaluator.evaluate(space.largest) == report.accuracies["largest"]
    assert loaded.space.digest == space.digest


@torch.no_grad()
@by_variant
def test_folded_networks_compute_what_they_did(variant: tuple[str, str]) -> None:
    supernet = disturbed(space_of(variant))
    space = supernet.space
    x = images(space)
    for row in [space.lower, space.upper, *space.sample(np.random.default_rng(1), 10)]:
        network = supernet.extract(space.decode(row)).eval()
        logits = network(x)
        act_in_place(network)
        assert torch.equal(network(x), logits)
        fold_in_place(network)
        assert not [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        scale = logits.abs().max()  # the disturbed weights of parallel blocks lead to logits of 1e5
        assert torch.allclose(network(x) / scale, logits / scale, atol=1e-5)
