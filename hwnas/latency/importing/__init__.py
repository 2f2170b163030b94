"""Latencies that another program measured, made a latency table: checked entry by entry, never guessed.

``table`` makes the table; ``kinds`` tells the files apart; ``rows`` (a person's own measurements), ``columns`` (HELP's
data sets) and ``block_table`` (Once-for-All's lookup tables) read them.
"""

from hwnas.latency.importing.clock import coarse_tick
from hwnas.latency.importing.folders import complete_folder, require_new
from hwnas.latency.importing.given import GivenFile, GivenRow
from hwnas.latency.importing.kinds import Reading
from hwnas.latency.importing.rows import read_given
from hwnas.latency.importing.table import IMPORTED, choose_held_out, fingerprint_of, import_table, is_imported

__all__ = [
    "IMPORTED",
    "GivenFile",
    "GivenRow",
    "Reading",
    "choose_held_out",
    "coarse_tick",
    "complete_folder",
    "fingerprint_of",
    "import_table",
    "is_imported",
    "read_given",
    "require_new",
]
