from __future__ import annotations

import pytest

from hwnas.registry import load, names
from hwnas.strategies.evolution import Evolution
from hwnas.strategies.nat import Nat
from hwnas.strategies.natv2 import NatV2
from hwnas.strategies.random_search import RandomSearch
from hwnas.testing.strategies import StrategyContract


class TestNatV2(StrategyContract):
    strategy = NatV2


class TestNatV2Unlimited(StrategyContract):
    strategy = NatV2
    budget = None


class TestNat(StrategyContract):
    strategy = Nat


class TestRandomSearch(StrategyContract):
    strategy = RandomSearch


class TestEvolution(StrategyContract):
    strategy = Evolution


class TestEvolutionUnlimited(StrategyContract):
    strategy = Evolution
    budget = None


@pytest.mark.parametrize("cls", [NatV2, Nat, RandomSearch, Evolution])
def test_every_strategy_is_registered_under_its_name(cls: type) -> None:
    assert cls.name in names("strategy")
    assert load("strategy", cls.name) is cls
