"""The stage that fine-tunes the winners of the search, each architecture once however many targets chose it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.finetuning.two_step import finetune
from hwnas.finetuning.winner import Winner
from hwnas.progress import progress_bar
from hwnas.runs.searching import searched_supernet
from hwnas.runs.session import Run
from hwnas.runs.shortlist import Pick
from hwnas.strategies.state import SearchResult


def finetune_stage(run: Run, result: SearchResult, picks: Sequence[Pick]) -> dict[str, Winner]:
    """Return the fine-tuned winners by identifier; finished ones are loaded, an interrupted one goes on."""
    supernet = searched_supernet(run, result)
    encodings = {pick.identifier: np.array(pick.encoding, dtype=np.int64) for pick in picks}
    section = run.config.finetune
    winners = {}
    with progress_bar("fine-tuning", 2 * section.epochs * len(encodings)) as advance:
        for identifier, encoding in encodings.items():
            winners[identifier] = finetune(
                supernet,
                run.space.decode(encoding),
                run.data,
                section,
                run.folder.winner(identifier),
                on_progress=advance,
                metric=run.config.search.metric,
            )
    return winners
