"""Training one network alone: by epochs (deterministic) and by the clock."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from hwnas.config import TrainSection
from hwnas.datasets.data import ImageData
from hwnas.finetuning import loop, plain
from hwnas.finetuning.plain import train_alone
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.supernets.evaluation import evaluate_module
from hwnas.supernets.static import build_network

SECTION = TrainSection(batch_size=16, learning_rate=0.2, warmup_epochs=1, label_smoothing=0.0)


@pytest.fixture
def network(space: MobileNetV3Space) -> nn.Module:
    return build_network(space, space.smallest, seed=1)


class Clock:
    """A clock that a test moves: every reading is a tenth of a second after the one before."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 0.1
        return self.time


def test_epochs_give_records_and_a_network_that_learned(data: ImageData, network: nn.Module) -> None:
    before = evaluate_module(network, data.validation)
    moved: list[float] = []
    history = train_alone(network, data, SECTION, epochs=5, on_progress=lambda step, note: moved.append(step))
    assert [record.epoch for record in history] == [1, 2, 3, 4, 5]
    assert sum(moved) == pytest.approx(1)
    assert history[-1].validation_accuracy == pytest.approx(evaluate_module(network, data.validation))
    assert history[-1].validation_accuracy > max(before, 0.1) + 0.3
    assert not network.training


def test_the_same_seed_gives_the_same_network(data: ImageData, space: MobileNetV3Space) -> None:
    networks = [build_network(space, space.smallest, seed=1) for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        train_alone(network, data, SECTION, epochs=1, seed=seed)
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_half_an_epoch_is_half_the_steps(data: ImageData, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    real = loop.train_step

    def spy(module, optimizer, batch, rate, *rest):  # type: ignore[no-untyped-def]
        rates.append(rate)
        return real(module, optimizer, batch, rate, *rest)

    monkeypatch.setattr(plain, "train_step", spy)
    history = train_alone(network, data, SECTION.model_copy(update={"warmup_epochs": 0}), epochs=1.5)
    steps = data.train.steps(SECTION.batch_size)
    assert len(rates) == steps + steps // 2
    assert len(history) == 2
    assert rates[0] == pytest.approx(SECTION.learning_rate)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05 * SECTION.learning_rate


def test_the_warm_up_rises_over_its_epochs(
    data: ImageData, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(plain, "train_step", lambda m, o, b, rate, *rest: rates.append(rate) or 0.0)
    train_alone(network, data, SECTION, epochs=4)
    steps = data.train.steps(SECTION.batch_size)
    assert rates[0] == pytest.approx(SECTION.learning_rate / steps)
    assert rates[: steps - 2] == sorted(rates[: steps - 2])


def test_the_clock_ends_training_and_drives_the_cosine(
    data: ImageData, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(plain, "train_step", lambda m, o, b, rate, *rest: rates.append(rate) or 0.0)
    section = SECTION.model_copy(update={"warmup_epochs": 0})
    history = train_alone(network, data, section, minutes=0.05, now=Clock())
    assert 5 < len(rates) < 31  # three seconds of a clock that moves a tenth per reading
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]
    assert history


def test_validation_does_not_count(data: ImageData, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    steps = [0]

    def slow_validation(*_: object) -> tuple[float, float]:
        clock.time += 1000
        return 1.0, 0.5

    def count(*_: object) -> float:
        steps[0] += 1
        return 0.0

    monkeypatch.setattr(plain, "validate", slow_validation)
    monkeypatch.setattr(plain, "train_step", count)
    history = train_alone(network, data, SECTION, minutes=0.2, now=clock)
    assert len(history) > 2
    assert steps[0] > 2 * data.train.steps(SECTION.batch_size)


def test_limits_and_resolution_are_asked_for(data: ImageData, network: nn.Module) -> None:
    with pytest.raises(ValueError, match="give a side and a limit"):
        train_alone(network, data, SECTION)
    with pytest.raises(ValueError, match="give a side and a limit"):
        train_alone(nn.Flatten(), data, SECTION, epochs=1)


def test_any_module_trains_at_a_given_resolution(data: ImageData) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 10))
    history = train_alone(module, data, SECTION, resolution=6, epochs=2)
    assert history[-1].validation_accuracy > 0.3


def test_test_and_gate_splits_are_never_read(data: ImageData, network: nn.Module) -> None:
    blind = dataclasses.replace(data, test=None, gate=None)  # type: ignore[arg-type]
    assert train_alone(network, blind, SECTION, epochs=0.1)
