"""Lookup tables of blocks in Once-for-All's YAML form, and the sums of networks that they give.

Source: Cai et al., "Once-for-All" (ICLR 2020), public code, ``MBv3LatencyTable``: a network costs the sum of its stem
(``Conv``), blocks (``expanded_conv``, whose ``expand`` is the width of the depthwise convolution), last expansion (``Conv_1``),
pooling (``AvgPool2D``), feature mix (``Conv_2``) and classifier (``Logits``); there is one file for each resolution.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwnas.errors import ConfigError, TableError
from hwnas.files import digest
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.importing.given import UNITS, GivenFile, GivenRow, positive
from hwnas.latency.model import FEWEST_ROWS
from hwnas.latency.sampling import cover_keys, draw, extremes_of
from hwnas.spaces.base import Architecture, IntArray, SearchSpace, unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.mobilenetv3_plan import BlockPlan

NETWORKS = 300
"""Networks that are composed unless a person asks for another number."""

HALF_WIDTH = 0.1
"""Half-width, as a share, of a sum's interval: what blocks measured alone pay and a network pays once is not known."""

_POOL = 4000
_COVERING = 0.6
_KEY = re.compile(r"(Conv|Conv_1|Conv_2|AvgPool2D|Logits|expanded_conv)-input:\d+x\d+x\d+-output:\d+")


@dataclass(frozen=True)
class BlockFile:
    """One YAML file.

    Attributes:
        path: Where it lies.
        sha256: Digest of its bytes.
        entries: Key -> milliseconds.
    """

    path: Path
    sha256: str
    entries: dict[str, float]


def keys_of(plan: BlockPlan) -> tuple[str, ...]:
    """Return the keys of a block's parts in Once-for-All's tables."""
    side, out = plan.side, plan.out_side
    if plan.op == "stem":
        return (f"Conv-input:{side}x{side}x{plan.in_channels}-output:{out}x{out}x{plan.out_channels}",)
    if plan.op == "head":
        mid, last = plan.mid_channels, plan.out_channels
        return (
            f"Conv_1-input:{side}x{side}x{plan.in_channels}-output:{side}x{side}x{mid}",
            f"AvgPool2D-input:{side}x{side}x{mid}-output:1x1x{mid}",
            f"Conv_2-input:1x1x{mid}-output:1x1x{last}",
            f"Logits-input:1x1x{last}-output:{plan.classes}",
        )
    return (
        f"expanded_conv-input:{side}x{side}x{plan.in_channels}-output:{out}x{out}x{plan.out_channels}"
        f"-expand:{plan.mid_channels}-kernel:{plan.kernel}-stride:{plan.stride}-idskip:{int(plan.residual)}"
        f"-se:{int(plan.squeeze > 0)}-hs:{int(plan.activation == 'hswish')}",
    )


def compose(
    path: Path, space: SearchSpace[Architecture], unit: str = "ms", networks: int | None = None, seed: int = 0
) -> GivenFile:
    """Compose networks of a space from a table of blocks, or a folder of such tables.

    A network is composed from one file, the one that holds its stem: what another resolution's file says of a block of
    equal size was measured apart. Networks of which a block is missing are left out, and a note says how many.

    Args:
        path: A YAML file, or a folder of them.
        space: The space of the networks.
        unit: Unit of the file, of :data:`UNITS`.
        networks: How many to compose.
        seed: Seed of the networks.

    Raises:
        ConfigError: The space is not made of such blocks.
        TableError: A file cannot be used, or blocks of too many networks are missing.
    """
    if not isinstance(space, MobileNetV3Space):
        raise ConfigError(
            f"{path} is a table of mobilenetv3's blocks, not of {space.name}'s. Give their space: --space"
        )
    files = [_read(entry, unit) for entry in _files_of(path)]
    networks = NETWORKS if networks is None else networks
    pool = _pool(space, max(_POOL, 10 * networks), seed)
    composer = _Composer(files)
    composed = [composer.blocks_of(space.plan(space.decode(encoding))) for encoding in pool]
    whole = [index for index, blocks in enumerate(composed) if blocks]
    told = (
        f"{len(pool) - len(whole)} of {len(pool)} networks drawn have a block that {path.name} lacks and were left out; "
        f"missing first: {composer.missing}"
    )
    if len(whole) < FEWEST_ROWS:
        raise TableError(
            f"{path}: {told}. It holds, for example, {min(files[0].entries)}. "
            "Give the space whose blocks were measured (widths, resolutions, classes): --space"
        )
    chosen = [whole[index] for index in _choose(pool[whole], space, networks)]
    rows = [_row(number, pool[index], composed[index], space) for number, index in enumerate(sorted(chosen), start=1)]
    parts = tuple(value for file in files for value in file.entries.values())
    summed = (
        f"the latencies are sums of {len(parts)} block entries, not measurements of networks: scores and intervals say how "
        "well the sums are repeated, not how far the device is from them"
    )
    notes = (summed, told) if len(whole) < len(pool) else (summed,)
    return GivenFile(path.name, _digest_of(files, path), tuple(rows), {"blocks": len(parts)}, notes, parts)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(entry for entry in path.iterdir() if entry.suffix.lower() in (".yaml", ".yml"))


def _digest_of(files: list[BlockFile], path: Path) -> str:
    return digest([[file.path.name, file.sha256] for file in files]) if path.is_dir() else files[0].sha256


def _read(path: Path, unit: str) -> BlockFile:
    shape = "Each entry must be BLOCK: {mean: 1.23, ...} as in Once-for-All's latency tables."
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
        twice = _repeated(yaml.compose(text, Loader=yaml.SafeLoader))
        raw = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise TableError(f"{path} does not exist. Give a table of blocks in YAML. {shape}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise TableError(
            f"{path} cannot be read as YAML of plain numbers ({' '.join(str(error).split())}). {shape}"
        ) from error
    if not isinstance(raw, dict) or not raw:
        raise TableError(f"{path} holds no blocks. {shape}")
    if twice:
        raise TableError(f"{path}: {twice} stands twice. Keep one entry of it.")
    entries = {}
    for key, entry in raw.items():
        if not _KEY.match(str(key)):
            raise TableError(
                f"{path}: {str(key)[:60]!r} is no block of Once-for-All's tables (Conv, Conv_1, Conv_2, AvgPool2D, Logits, "
                "expanded_conv, with -input:HxWxC-output:...). Remove it, or import rows of networks instead."
            )
        if not isinstance(entry, dict) or "mean" not in entry:
            raise TableError(f"{path}, {key}: mean is missing. {shape}")
        mend = "Measure the block again, or remove its entry: networks that have it are then left out."
        entries[key] = UNITS[unit] * positive(entry["mean"], "mean", f"{path}, {key}", unit, mend)
    return BlockFile(path, hashlib.sha256(data).hexdigest(), entries)


def _repeated(node: Any) -> str:
    """Return a key that a mapping has twice, which the YAML loader would pass over in silence; empty if there is none."""
    seen: set[str] = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if str(key.value) in seen:
            return str(key.value)
        seen.add(str(key.value))
    return ""


class _Composer:
    """Adds up what blocks cost; remembers the first key that was missing."""

    def __init__(self, files: list[BlockFile]) -> None:
        self.missing = ""
        self._by_stem: dict[str, BlockFile] = {}
        for file in files:
            for key in file.entries:
                if not key.startswith("Conv-"):
                    continue
                if key in self._by_stem:
                    raise TableError(
                        f"{key} stands in {self._by_stem[key].path.name} and in {file.path.name}; a network is composed from "
                        "one file. Give the file, or a folder without the other."
                    )
                self._by_stem[key] = file

    def blocks_of(self, plans: Iterable[BlockPlan]) -> dict[str, float]:
        """Return block name -> milliseconds of a network; empty if one is missing."""
        entries: dict[str, float] = {}
        found: dict[str, float] = {}
        for plan in plans:
            keys = keys_of(plan)
            if plan.op == "stem":
                entries = self._by_stem[keys[0]].entries if keys[0] in self._by_stem else {}
            lacking = next((key for key in keys if key not in entries), "")
            if lacking:
                self.missing = self.missing or lacking
                return {}
            found[plan.name] = sum(entries[key] for key in keys)
        return found


def _pool(space: SearchSpace[Any], count: int, seed: int) -> IntArray:
    """Return the smallest, the largest and random networks, ``[n, n_genes]``."""
    extremes = unique_rows(extremes_of(space))
    drawn = draw(space, np.random.default_rng([seed, 4]), count, list(extremes), at_most=True)
    return np.concatenate([extremes, drawn])


def _choose(pool: IntArray, space: SearchSpace[Any], count: int) -> list[int]:
    """Return the indices of ``count`` networks of ``pool [n, n_genes]``: those that hold most blocks not yet seen first."""
    extractor = FeatureExtractor(space, "fp32")
    ids = extractor.ids(pool)
    covering = cover_keys(ids, ids[:0], len(extractor.indexer.keys), int(_COVERING * count))
    rest = np.setdiff1d(np.arange(len(pool)), covering)
    return [*covering, *rest[: count - len(covering)].tolist()]


def _row(number: int, encoding: IntArray, blocks: dict[str, float], space: MobileNetV3Space) -> GivenRow:
    value = sum(blocks.values())
    interval = ((1.0 - HALF_WIDTH) * value, (1.0 + HALF_WIDTH) * value)
    return GivenRow(number, space.id_of(encoding), encoding, value, interval, blocks)
