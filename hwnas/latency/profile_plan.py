"""What a profile will do, frozen in its folder before it starts: which networks, how many rounds, how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import ProfileSection
from hwnas.errors import RunFolderError
from hwnas.files import read_json, write_json
from hwnas.latency.canaries import CANARIES
from hwnas.latency.model import LatencyModel
from hwnas.latency.networks import KERNEL_RUNS, Networks
from hwnas.latency.protocol import Protocol, is_time
from hwnas.latency.resident import unit_of, warm_up_spec
from hwnas.latency.sampling import extremes_of, plan_draws, plan_networks
from hwnas.latency.transferred import names_of, plan_anchors, tables_of
from hwnas.spaces.base import Architecture, IntArray, SearchSpace
from hwnas.targets import Fingerprint, Target

PLAN_FILE = "plan.json"

_FEWEST_ROUNDS = 5
_FEWEST_TRAIN = 24
_FEWEST_HELD_OUT = 5
_FEWEST_KERNELS = 24
_PROBED = 8


@dataclass(frozen=True)
class ProfilePlan:
    """A profile before it starts.

    Attributes:
        train: Encodings to fit on, ``[n, n_genes]``.
        held_out: Encodings to judge by, ``[m, n_genes]``.
        n_kernels: How many of ``train`` (the first ones) are also profiled by kernel.
        protocol: The measuring protocol.
        estimated_minutes: How long it will take, from a probe of a few networks.
        notes: What was cut to keep ``budget_minutes``, as sentences.
        coverage: Share of block keys that the measured networks hold.
    """

    train: IntArray
    held_out: IntArray
    n_kernels: int
    protocol: Protocol
    estimated_minutes: float
    notes: tuple[str, ...]
    coverage: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "train": self.train.tolist(),
            "held_out": self.held_out.tolist(),
            "n_kernels": self.n_kernels,
            "protocol": self.protocol.as_dict(),
            "estimated_minutes": self.estimated_minutes,
            "notes": list(self.notes),
            "coverage": self.coverage,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ProfilePlan:
        """Read what :meth:`as_dict` wrote."""
        train = np.array(raw["train"], dtype=np.int64)
        return cls(
            train=train,
            held_out=np.array(raw["held_out"], dtype=np.int64).reshape(-1, train.shape[1]),
            n_kernels=int(raw["n_kernels"]),
            protocol=Protocol.from_dict(raw["protocol"]),
            estimated_minutes=float(raw["estimated_minutes"]),
            notes=tuple(raw["notes"]),
            coverage=float(raw["coverage"]),
        )


@dataclass(frozen=True)
class Cost:
    """What a network of middling size costs, seconds.

    Attributes:
        setup_s: To build and load it.
        burst_s: One burst of it, with its share of the canaries.
        kernels_s: To profile its kernels.
    """

    setup_s: float
    burst_s: float
    kernels_s: float

    def minutes(self, networks: int, rounds: int, kernels: int) -> float:
        """Return the minutes of a whole profile."""
        return (networks * (self.setup_s + rounds * self.burst_s) + kernels * self.kernels_s) / 60.0


def probe_cost(session: Any, networks: Networks, protocol: Protocol, X: IntArray) -> Cost:
    """Build, load and run the networks ``X [n, n_genes]`` once, and say what one in between will cost."""
    setups, runs_s = [], []
    timed, warm_up = is_time(unit_of(session)), warm_up_spec(session)
    for encoding in X:
        item = networks.item(encoding)
        start = time.monotonic()
        handle = session.load(item.obtain(), networks.target).handle
        setups.append(time.monotonic() - start)
        start = time.monotonic()
        (burst,) = session.burst_round([handle], warm_up)
        elapsed = time.monotonic() - start
        if len(burst.samples):
            runs = len(burst.samples) + warm_up.discard
            runs_s.append(float(np.median(burst.samples)) / 1e3 if timed else elapsed / runs)
        session.unload(handle)
        if item.release is not None:
            item.release()
    latency_s = float(np.mean(runs_s)) if runs_s else 0.0
    spec = protocol.burst
    burst_s = max(spec.target_ms / 1e3, spec.min_runs * latency_s) + spec.discard * latency_s
    return Cost(
        float(np.mean(setups)), burst_s * (1.0 + len(CANARIES) / protocol.canary_period), 4 * KERNEL_RUNS * latency_s
    )


def fit_budget(plan: ProfilePlan, cost: Cost, budget_minutes: float | None) -> ProfilePlan:
    """Return the plan cut to the budget: first fewer rounds (at least 5), then fewer networks; the notes say so.

    Both splits are cut from their ends in proportion, so the extremes and the covering networks stay longest.
    """

    def minutes(p: ProfilePlan) -> float:
        return cost.minutes(len(p.train) + len(p.held_out), p.protocol.rounds, p.n_kernels)

    if budget_minutes is None or minutes(plan) <= budget_minutes:
        return replace(plan, estimated_minutes=minutes(plan))
    notes = []
    whole = plan
    while minutes(plan) > budget_minutes and plan.protocol.rounds > _FEWEST_ROUNDS:
        plan = replace(plan, protocol=replace(plan.protocol, rounds=plan.protocol.rounds - 1))
    if plan.protocol.rounds < whole.protocol.rounds:
        notes.append(
            f"{plan.protocol.rounds} instead of {whole.protocol.rounds} rounds to keep {budget_minutes:g} minutes"
        )
    share = 1.0
    while minutes(plan) > budget_minutes and share > 0.05:
        share -= 0.05
        train = max(min(_FEWEST_TRAIN, len(whole.train)), int(share * len(whole.train)))
        held = max(min(_FEWEST_HELD_OUT, len(whole.held_out)), int(share * len(whole.held_out)))
        plan = replace(
            plan, train=whole.train[:train], held_out=whole.held_out[:held], n_kernels=min(plan.n_kernels, train)
        )
    if len(plan.train) < len(whole.train):
        before, after = len(whole.train) + len(whole.held_out), len(plan.train) + len(plan.held_out)
        notes.append(f"{after} instead of {before} networks to keep {budget_minutes:g} minutes")
    if minutes(plan) > budget_minutes:
        notes.append(
            f"{budget_minutes:g} minutes are too few: the smallest useful profile takes about {minutes(plan):.1f}"
        )
    return replace(plan, estimated_minutes=minutes(plan), notes=tuple(notes))


def identity_of_plan(
    target: Target,
    space: SearchSpace[Architecture],
    section: ProfileSection,
    fingerprint: Fingerprint,
    sources: Sequence[LatencyModel] = (),
) -> dict[str, Any]:
    """Return what must be equal for a profile to go on in a folder; coverage and budget do not change what is measured."""
    asked = section.model_dump(mode="json", exclude={"coverage", "budget_minutes", "reuse", "interval"})
    return {
        "target": str(target),
        "space": space.digest,
        "section": asked,
        "identity": fingerprint.identity_digest,
        "sources": tables_of(sources) or None,
    }


def obtain_plan(
    session: Any,
    networks: Networks,
    section: ProfileSection,
    folder: Path,
    fingerprint: Fingerprint,
    protocol: Protocol,
    sources: Sequence[LatencyModel] = (),
) -> ProfilePlan:
    """Return the plan kept in ``folder``, or make it and keep it there; with ``sources``, of networks to transfer by.

    Raises:
        RunFolderError: The folder holds a profile of something else; what differs is named.
    """
    path = folder / PLAN_FILE
    identity = identity_of_plan(networks.target, networks.space, section, fingerprint, sources)
    if path.exists():
        stored = read_json(path)
        differing = [name for name, value in identity.items() if stored.get("identity", {}).get(name) != value]
        if differing:
            also = (
                f" (it began with {', '.join(stored.get('names', []))})" if "sources" in differing and sources else ""
            )
            raise RunFolderError(
                f"{folder} holds a profile that differs in {', '.join(differing)}{also}; with profile.interval or without it, a "
                "profile begins with other networks. Use another folder, or delete this one to profile anew."
            )
        try:
            return ProfilePlan.from_dict(stored["plan"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunFolderError(f"{path} is damaged ({error!r}). Delete {folder} to profile anew.") from error
    size = section.networks, section.held_out, section.seed
    probed = extremes_of(networks.space)
    if sources:
        sampled = plan_anchors(networks.space, sources, *size)
        kernels = len(sampled.train)
    elif networks.space.compositional:
        sampled = plan_networks(networks.space, *size)
        kernels = min(len(sampled.train), max(sampled.n_covering, _FEWEST_KERNELS))
    else:
        sampled = plan_draws(networks.space, *size)
        kernels, probed = len(sampled.train), sampled.train[:_PROBED]
    if not is_time(unit_of(session)):
        kernels = 0
    plan = ProfilePlan(sampled.train, sampled.held_out, kernels, protocol, 0.0, (), sampled.coverage)
    plan = fit_budget(plan, probe_cost(session, networks, protocol, probed), section.budget_minutes)
    write_json(path, {"identity": identity, "plan": plan.as_dict(), "names": names_of(sources)})
    return plan
