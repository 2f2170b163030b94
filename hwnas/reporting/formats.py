"""How numbers are written for people."""

from __future__ import annotations

import math
from typing import Any

DASH = "\N{EN DASH}"
"""What stands where a value is unknown."""


def format_number(value: Any, digits: int = 3) -> str:
    """Return a number with ``digits`` significant digits and no exponent; a dash for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return DASH if value is None or isinstance(value, float) else str(value)
    if isinstance(value, int) or value == 0:
        return str(value)
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def format_share(value: Any) -> str:
    """Return a share in [0, 1] in percent; a dash for what is no number."""
    return f"{100 * value:.1f} %" if isinstance(value, int | float) and math.isfinite(value) else DASH


def format_seconds(value: Any) -> str:
    """Return a duration as people say it."""
    if not isinstance(value, int | float):
        return DASH
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"


def format_bytes(value: int) -> str:
    """Return a size in kB or MB (powers of ten)."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def format_count(value: int) -> str:
    """Return a count in thousands (k) or millions (M)."""
    if value < 1e3:
        return str(value)
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"
