from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.errors import RunFolderError, StorageError
from hwnas.files import Journal, atomic_open, digest, read_json, write_json


def test_digest_does_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_digest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


def test_atomic_write_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with atomic_open(path) as stream:
            stream.write("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_read_json_names_the_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(RunFolderError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_journal_drops_a_record_cut_short_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"n": 1})
    journal.append({"n": 2})
    with path.open("ab") as stream:
        stream.write(b'{"n": 3')
    again = Journal(path)
    again.append({"n": 4})
    assert [record["n"] for record in Journal(path)] == [1, 2, 4]


def test_journal_refuses_a_damaged_line_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"n":1}\nnoise\n{"n":2}\n')
    with pytest.raises(RunFolderError, match="line 2"):
        Journal(path)


_WRITER = """
import sys
from pathlib import Path
from hwnas.files import Journal
journal = Journal(Path(sys.argv[1]))
n = len(journal)
while True:
    journal.append({"n": n, "text": "x" * 300})
    n += 1
    print(n, flush=True)
"""


def test_journal_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    confirmed = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(40):
            confirmed = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.communicate()[0].split()
        confirmed = int(rest[-1]) if rest and rest[-1].isdigit() else confirmed
        numbers = [record["n"] for record in Journal(path)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= confirmed


def test_full_disk_leaves_the_journal_readable(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"n": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(StorageError, match="intact"):
            journal.append({"n": 1, "text": "y" * 500})
        with pytest.raises(StorageError, match="cannot write"):
            write_json(tmp_path / "big.json", {"text": "z" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert [record["n"] for record in Journal(path)] == [0]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["journal.jsonl"]
