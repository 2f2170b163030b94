"""How networks are measured: rounds, bursts, canaries, what counts as contention, when to stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hwnas.devices.models import BurstSpec

VERSION = 1
"""Version of the measuring protocol; part of every table's header."""

COUNTED = BurstSpec(target_ms=0.0, min_runs=1, max_runs=1, discard=0)
"""A burst where runs are counted, not timed: one is enough."""
COUNTED_ROUNDS = 4
"""Rounds where runs are counted."""


def is_time(unit: str) -> bool:
    """Whether samples of this unit are times; else they are counts, which nothing else disturbs."""
    return unit == "ms"


@dataclass(frozen=True)
class Protocol:
    """One measuring protocol for every runtime (design, 5).

    Attributes:
        rounds: Rounds in which every network is measured once, in a new random order each.
        burst: How long one burst of one network lasts.
        canary_period: Networks between two visits of the canaries; also what one journal record holds, so a kill
            loses at most this many bursts.
        max_resident: Models loaded at once; more networks are measured in groups linked by the canaries.
        passes: Times each group is visited when there are several, so that its rounds span the session.
        retries: Repetitions of a burst that was contended.
        max_pressure: Share of a burst in which a task waited for a CPU, above which the burst is contended.
        max_switches_per_run: Involuntary context switches per timed run, above which the burst is contended.
        chronic_share: Share of contended bursts above which a chunk is not repeated: repeating would not help.
        max_failures: Failed bursts after which a network counts as failed.
        pause_ms: Pause between rounds, milliseconds; stretches a short session over more phases of a shared host.
        target_half_width: Relative half-width of the interval at which a single model's measurement stops.
        min_rounds: Rounds a single model gets at least.
        resamples: Bootstrap resamples of the rounds.
        confidence: Level of the confidence intervals.
        seed: Seed of the order of networks and of the bootstrap.
    """

    rounds: int = 12
    burst: BurstSpec = field(default_factory=BurstSpec)
    canary_period: int = 16
    max_resident: int = 150
    passes: int = 3
    retries: int = 2
    max_pressure: float = 0.10
    max_switches_per_run: float = 0.2
    chronic_share: float = 0.5
    max_failures: int = 2
    pause_ms: float = 0.0
    target_half_width: float = 0.02
    min_rounds: int = 8
    resamples: int = 400
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "canary_period", "max_resident", "passes", "min_rounds", "resamples", "max_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} of the protocol must be at least 1")
        if self.retries < 0 or self.pause_ms < 0:
            raise ValueError(f"retries={self.retries} and pause_ms={self.pause_ms} must not be negative")
        if not 0 < self.confidence < 1 or self.target_half_width <= 0:
            raise ValueError(
                f"confidence={self.confidence} must lie in (0, 1), target_half_width={self.target_half_width} above 0"
            )

    def for_unit(self, unit: str, most_rounds: int = COUNTED_ROUNDS) -> Protocol:
        """Return the protocol for what a device measures: few runs where it counts what nothing else disturbs.

        Args:
            unit: Unit of the samples; this protocol is for ``ms``.
            most_rounds: Rounds of counting at most.
        """
        if is_time(unit):
            return self
        rounds = min(self.rounds, most_rounds)
        fewest = min(self.min_rounds, rounds, COUNTED_ROUNDS)
        return replace(self, rounds=rounds, min_rounds=fewest, burst=COUNTED, retries=0, pause_ms=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data, with the protocol's version."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Protocol:
        """Read what :meth:`as_dict` wrote; keys of later versions are ignored."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        known["burst"] = BurstSpec(**known.get("burst", {}))
        return cls(**known)
