"""Two latency tables of one space side by side: by how much everything moved, and which blocks moved otherwise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.errors import TableError
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.lut import kernel_prices
from hwnas.latency.rows import encodings_of
from hwnas.latency.statistics import MAD_SCALE
from hwnas.latency.table import LatencyTable

MOVED = 0.1
"""A block is named when it moved by more than this share beyond what all blocks did, and by more than the noise."""

_NOISE = 3.0


def diff(first: LatencyTable, second: LatencyTable) -> dict[str, Any]:
    """Compare two tables of one space: what ``hwnas tables diff`` prints.

    Returns:
        Keys in only one of them, identity differences, and over shared networks the median ratio second / first as
        measured and after bringing both to one canary level, with the largest deviation from it; ``blocks``: what
        :func:`moved_blocks` says.

    Raises:
        TableError: They are of different spaces.
    """
    if first.header.space_digest != second.header.space_digest:
        raise TableError(f"tables of {first.target} and {second.target} are of different spaces; nothing to compare.")
    if first.header.unit != second.header.unit:
        units = f"{first.header.unit} and {second.header.unit}"
        raise TableError(f"tables of {first.target} and {second.target} are in {units}; nothing to compare.")
    ours = {row.key: row.latency for row in first.measured()}
    theirs = {row.key: row.latency for row in second.measured()}
    shared = sorted(ours.keys() & theirs.keys())
    logs = np.log([theirs[key] / ours[key] for key in shared]) if shared else np.array([math.nan])
    names = sorted(first.header.canaries.keys() & second.header.canaries.keys())
    ratios = [second.header.canaries[name] / first.header.canaries[name] for name in names]
    canary = float(np.mean(np.log(ratios))) if ratios else math.nan
    centre = float(np.median(logs))
    return {
        "only_first": sorted(ours.keys() - theirs.keys()),
        "only_second": sorted(theirs.keys() - ours.keys()),
        "shared": len(shared),
        "identity": first.header.fingerprint.differences(second.header.fingerprint),
        "median_ratio": math.exp(centre),
        "median_ratio_canary_corrected": math.exp(centre - canary),
        "largest_deviation": float(np.max(np.abs(np.expm1(logs - centre)))),
        "blocks": moved_blocks(first, second),
    }


def moved_blocks(first: LatencyTable, second: LatencyTable) -> list[dict[str, Any]]:
    """Return the blocks whose kernel times changed otherwise than those of most blocks, the largest change first.

    Each is ``{"block", "ratio", "first", "second"}``: its key, second / first divided by the median of all blocks' ratios,
    and its median kernel times in the tables' unit, each network's brought to its measured latency. A block is named when
    its change stands out by three robust standard deviations. Empty where a table holds no kernel times.
    """
    profiled = [[row for row in table.measured() if row.kernels] for table in (first, second)]
    if not all(profiled):
        return []
    space = registry.load("space", first.header.space)(**first.header.settings)
    extractor = FeatureExtractor(space, first.target.precision)
    prices = [kernel_prices(rows, extractor, extractor.ids(encodings_of(rows)))[0] for rows in profiled]
    shared = [key for key in sorted(prices[0].keys() & prices[1].keys()) if min(table[key] for table in prices) > 0]
    if not shared:
        return []
    ratios = np.array([prices[1][key] / prices[0][key] for key in shared])
    relative = ratios / np.median(ratios)
    size = np.abs(np.log(relative))
    least = max(math.log(1.0 + MOVED), _NOISE * MAD_SCALE * float(np.median(size)))
    return [
        {
            "block": extractor.indexer.keys[shared[i]],
            "ratio": float(relative[i]),
            "first": prices[0][shared[i]],
            "second": prices[1][shared[i]],
        }
        for i in np.argsort(-size)
        if size[i] > least
    ]
