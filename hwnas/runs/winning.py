"""The stage that fine-tunes the winners of the search, each architecture once however many targets chose it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.files import read_json, write_json
from hwnas.finetuning.two_step import finetune, try_out
from hwnas.finetuning.winner import DESCRIPTION, Winner
from hwnas.progress import Advance, progress_bar
from hwnas.runs.searching import searched_supernet
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick, candidates_of
from hwnas.strategies.state import SearchResult
from hwnas.supernets.base import AnySupernet
from hwnas.targets import Target

WINNERS = "winners.json"
"""Which of the shortlisted architectures each target exports; its presence says that fine-tuning is over."""


def finetuned(run: Run) -> bool:
    """Return whether the winners are chosen and each is finished."""
    path = run.path / WINNERS
    chosen = read_json(path) if path.exists() else None
    return chosen is not None and all(
        (run.folder.winner(entry["identifier"]) / DESCRIPTION).exists() for entry in chosen
    )


@dataclass(frozen=True)
class _Work:
    run: Run
    supernet: AnySupernet
    advance: Advance

    def folder(self, pick: Pick) -> Path:
        """Return where an architecture is worked on: among the candidates until it is chosen."""
        winner = self.run.folder.winner(pick.identifier)
        return winner if winner.exists() else self.run.path / "candidates" / pick.identifier

    def try_out(self, pick: Pick) -> float:
        architecture = self.run.space.decode(np.array(pick.encoding, dtype=np.int64))
        config = self.run.config
        return try_out(
            self.supernet,
            architecture,
            self.run.data,
            config.finetune,
            self.folder(pick),
            on_progress=self.advance,
            metric=config.search.metric,
            exit_ensemble=config.train.exit_ensemble,
        )

    def finetune(self, pick: Pick) -> Winner:
        tried, folder = self.folder(pick), self.run.folder.winner(pick.identifier)
        if tried != folder and tried.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            tried.rename(folder)
        config = self.run.config
        return finetune(
            self.supernet,
            self.run.space.decode(np.array(pick.encoding, dtype=np.int64)),
            self.run.data,
            config.finetune,
            folder,
            on_progress=self.advance,
            metric=config.search.metric,
            exit_ensemble=config.train.exit_ensemble,
        )


def first_of(picks: Sequence[Pick], count: int) -> list[Pick]:
    """Return the first ``count`` picks of every target, in the order given."""
    seen: Counter[Target] = Counter()
    kept = []
    for pick in picks:
        seen[pick.target] += 1
        if seen[pick.target] <= count:
            kept.append(pick)
    return kept


def best_of(picks: Sequence[Pick], accuracy: dict[str, float], count: int) -> list[Pick]:
    """Return, for every target in the order given, its ``count`` picks of the highest accuracy; ties keep their order."""
    chosen = []
    for target in dict.fromkeys(pick.target for pick in picks):
        own = [pick for pick in picks if pick.target == target]
        chosen += sorted(own, key=lambda pick: -accuracy[pick.identifier])[:count]
    return chosen


def finetune_stage(run: Run, result: SearchResult, picks: Sequence[Pick]) -> tuple[list[Pick], dict[str, Winner]]:
    """Return the picks that are exported and their fine-tuned networks by identifier.

    Finished networks are loaded, interrupted ones go on. Where more candidates of a target are asked for than are exported,
    the first step of fine-tuning decides. Spares of the shortlist come in only where a winner failed (``replacing.py``).
    """
    wanted, epochs = run.config.export.winners, run.config.finetune.epochs
    picks = first_of(picks, candidates_of(run))
    unique = {pick.identifier: pick for pick in picks}
    most = min(len(unique), wanted * len(run.targets))
    rivals = len(picks) > wanted * len({pick.target for pick in picks})
    with progress_bar("fine-tuning", epochs * (len(unique) * rivals + 2 * most)) as advance:
        work = _Work(run, searched_supernet(run, result), advance)
        chosen = list(picks)
        if (run.path / WINNERS).exists():
            chosen = [Pick.from_dict(entry) for entry in read_json(run.path / WINNERS)]
        elif rivals:
            accuracy = {identifier: work.try_out(pick) for identifier, pick in unique.items()}
            chosen = best_of(picks, accuracy, wanted)
        winners = {pick.identifier: work.finetune(pick) for pick in {p.identifier: p for p in chosen}.values()}
    write_json(run.path / WINNERS, [pick.as_dict() for pick in chosen])
    return chosen, winners
