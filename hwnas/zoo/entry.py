"""Where entries lie and how one is found: the user's own, those shipped with the package, or any folder by its path."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.errors import ConfigError, HwnasError, ModelFileError
from hwnas.files import data_home, sha256_file
from hwnas.zoo.card import CARD, NAME, Card, read_card

Place = Literal["user", "shipped", "folder"]


@dataclass(frozen=True)
class Entry:
    """One pretrained supernet on the disk.

    Attributes:
        folder: Card and weights.
        card: The card.
        place: Where it was found.
    """

    folder: Path
    card: Card
    place: Place

    @property
    def name(self) -> str:
        """Name of the entry."""
        return self.card.name

    def problems(self) -> list[str]:
        """Return a sentence for each weight file that is absent or not the one the card names."""
        found = []
        for weight in self.card.weights:
            path = self.folder / weight.file
            if not path.is_file():
                found.append(f"{path} does not exist")
            elif sha256_file(path) != weight.sha256:
                found.append(f"{path} is damaged: its sha256 is not the one in {CARD}")
        return found

    def verify(self) -> None:
        """Raise unless every weight file is the one the card names.

        Raises:
            ModelFileError: The files that are not are named.
        """
        problems = self.problems()
        if problems:
            raise ModelFileError(
                f"zoo entry {self.name!r} cannot be used: {'; '.join(problems)}. Restore the files from where the entry "
                "came (a shipped one: install hwnas again)."
            )


def shipped_root() -> Path:
    """Return the folder of the entries that ship: inside the package, in a wheel as in a checkout."""
    return Path(__file__).parent / "entries"


def user_root() -> Path:
    """Return the folder of the user's own entries."""
    return data_home() / "zoo"


def _roots() -> tuple[tuple[Place, Path], ...]:
    return ("user", user_root()), ("shipped", shipped_root())


def entry_folders() -> list[tuple[Place, Path]]:
    """Return the folder of every entry, the user's own first, then by name."""
    return [
        (place, folder)
        for place, root in _roots()
        for folder in sorted(root.iterdir() if root.is_dir() else ())
        if re.fullmatch(NAME, folder.name) and (folder / CARD).is_file()
    ]


def read_entry(folder: Path, place: Place) -> Entry:
    """Read the entry in a folder of a root.

    Raises:
        ModelFileError: Its card cannot be used, or is that of another name.
    """
    entry = Entry(folder, read_card(folder), place)
    if place != "folder" and entry.name != folder.name:
        raise ModelFileError(f"{folder} holds the entry {entry.name!r}. Rename the folder to that.")
    return entry


def list_entries() -> tuple[list[Entry], list[str]]:
    """Return every entry, the user's own first, and a sentence for each whose card cannot be used."""
    found: list[Entry] = []
    problems: list[str] = []
    for place, folder in entry_folders():
        try:
            found.append(read_entry(folder, place))
        except HwnasError as error:
            problems.append(str(error))
    return found, problems


@dataclass(frozen=True)
class Checked:
    """What :func:`check_entries` found of one entry; ``problems`` is empty if it is whole."""

    name: str
    folder: Path
    problems: tuple[str, ...]


def check_entries(text: str | None = None) -> list[Checked]:
    """Check card and weight files of an entry, by name or path, or of every entry.

    Raises:
        ConfigError: There is no such entry.
    """
    return [_check(place, folder) for place, folder in (entry_folders() if text is None else [locate(text)])]


def _check(place: Place, folder: Path) -> Checked:
    try:
        return Checked(folder.name, folder, tuple(read_entry(folder, place).problems()))
    except ModelFileError as error:
        return Checked(folder.name, folder, (str(error),))


def is_path(text: str) -> bool:
    """Whether ``text`` is a path (it has a separator) rather than a name."""
    return text.startswith(("~", ".")) or any(mark in text for mark in {"/", os.sep})


def locate(text: str) -> tuple[Place, Path]:
    """Return the folder of an entry by name (the user's own before a shipped one) or by its path.

    Raises:
        ConfigError: There is none; the nearest name is suggested.
    """
    if is_path(text):
        folder = Path(text).expanduser()
        if not (folder / CARD).is_file():
            raise ConfigError(
                f"{folder} is no entry of the zoo: it holds no {CARD}. Give the folder of one, or a name."
            )
        return "folder", folder
    folders = entry_folders()
    for place, folder in folders:
        if folder.name == text:
            return place, folder
    known = sorted({folder.name for _, folder in folders})
    near = difflib.get_close_matches(text, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if (Path(text) / CARD).is_file():
        hint = f" For the folder of that name write ./{text}."
    raise ConfigError(
        f"there is no pretrained supernet {text!r}; known: {', '.join(known) or 'none'}.{hint} List them with: hwnas zoo list"
    )


def find_entry(text: str) -> Entry:
    """Return an entry by name (the user's own before a shipped one), or by the path of its folder.

    Raises:
        ConfigError: There is none of that name; the nearest is suggested.
        ModelFileError: Its card cannot be used.
    """
    place, folder = locate(text)
    return read_entry(folder, place)
