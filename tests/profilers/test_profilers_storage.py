from __future__ import annotations

import hashlib

import pytest

from hwnas_profilers import storage
from hwnas_profilers.storage import Storage


def put(kept: Storage, *contents: bytes) -> list[dict[str, str]]:
    """Upload the files of one model as a client does: ask what is missing, send that."""
    named = {hashlib.sha256(content).hexdigest(): content for content in contents}
    for digest in kept.missing(list(named)):
        kept.put(digest, named[digest])
    return [{"sha256": digest, "name": f"part{number}"} for number, digest in enumerate(named)]


def test_the_files_of_a_model_stay_together_where_room_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "KEPT_LIMIT_BYTES", 100)
    kept = Storage()
    try:
        kept.lay_out("resident", put(kept, b"r" * 90))
        for number in range(4):
            shared, own = b"s" * 60, bytes([65 + number]) * 60
            folder = kept.lay_out(f"m{number}", put(kept, shared, own)).parent
            assert [len((folder / name).read_bytes()) for name in ("part0", "part1")] == [60, 60]
            kept.remove(f"m{number}")
        assert (kept.lay_out("resident", put(kept, b"r" * 90))).read_bytes() == b"r" * 90
        old = hashlib.sha256(b"A" * 60).hexdigest()
        assert kept.missing([old]) == [old]
    finally:
        kept.close()
