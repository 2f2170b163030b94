"""What a file must pass before it is called an artifact: parity, accuracy, and a verdict per budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from hwnas.artifacts.accuracy import accuracy_on, check_gate, gate_counts, torch_accuracy
from hwnas.artifacts.parity import TOLERANCE, check_parity, compare_outputs, parity

__all__ = [
    "ATTEMPTS",
    "TOLERANCE",
    "Verdict",
    "accuracy_on",
    "check_gate",
    "check_parity",
    "compare_outputs",
    "gate_counts",
    "parity",
    "torch_accuracy",
    "verdict",
]

ATTEMPTS = 4
"""One measurement and up to three more while the confidence interval straddles the budget."""


class Interval(Protocol):
    """What a verdict reads of a measurement."""

    @property
    def low(self) -> float:
        """Lower end of the confidence interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the confidence interval."""
        ...

    @property
    def statistic(self) -> str:
        """Statistic the interval is of."""
        ...


MeasurementT = TypeVar("MeasurementT", bound=Interval)


@dataclass(frozen=True)
class Verdict(Generic[MeasurementT]):
    """The outcome for one budget.

    Attributes:
        kind: ``kept`` or ``broken``.
        statistic: Statistic of the budget.
        budget_ms: The budget.
        measurements: Every measurement that was taken, in order; the last one decided.
    """

    kind: Literal["kept", "broken"]
    statistic: str
    budget_ms: float
    measurements: tuple[MeasurementT, ...]

    @property
    def tries(self) -> int:
        """Number of measurements."""
        return len(self.measurements)

    @property
    def decisive(self) -> MeasurementT:
        """The measurement that decided."""
        return self.measurements[-1]


def verdict(
    measure: Callable[[], MeasurementT], budget_ms: float, statistic: str, attempts: int = ATTEMPTS
) -> Verdict[MeasurementT]:
    """Measure until the confidence interval of ``statistic`` lies on one side of the budget.

    ``kept`` if the upper end is within the budget, ``broken`` if the lower end is above it; otherwise measured again,
    ``attempts`` times in all, and then ``broken``: what cannot be shown to keep a budget does not keep it.

    Raises:
        ValueError: The budget is not positive, or a measurement is of another statistic.
    """
    if not (budget_ms > 0 and math.isfinite(budget_ms)) or attempts < 1:
        raise ValueError(f"budget_ms={budget_ms} must be positive and finite, attempts={attempts} at least 1")
    taken: list[MeasurementT] = []
    while len(taken) < attempts:
        taken.append(measure())
        if taken[-1].statistic != statistic:
            raise ValueError(f"the budget is on {statistic}, the measurement is of {taken[-1].statistic}")
        if taken[-1].high <= budget_ms:
            return Verdict("kept", statistic, budget_ms, tuple(taken))
        if taken[-1].low > budget_ms:
            break
    return Verdict("broken", statistic, budget_ms, tuple(taken))
