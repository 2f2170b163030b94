"""How a run starts from an entry: the space it gives, what must agree, and the weights it hands over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.config import DataSection, RunConfig, SpaceSection
from hwnas.datasets.data import ImageData
from hwnas.errors import ConfigError, DataError, ModelFileError, SpaceError
from hwnas.files import read_json, write_json
from hwnas.spaces.base import SearchSpace
from hwnas.supernets.base import AnySupernet
from hwnas.supernets.storage import settings_differences
from hwnas.zoo.card import Card
from hwnas.zoo.entry import Entry
from hwnas.zoo.weights import load_body, load_weights, space_of

LOADED = "pretrained.json"
"""Written beside the weights of a run's supernet once they are those of an entry."""

FROM_DATA = ("classes", "in_channels")
"""Settings that follow the data unless the run file sets them."""

SPLIT_KEYS = ("validation", "gate", "test", "seed")
"""Keys of ``data`` that decide which images are trained on; ``max_train`` only leaves some of those out."""

JUDGES = ("validation", "gate", "test")
"""Splits that no training may have seen."""


@dataclass(frozen=True)
class Start:
    """What a run took over.

    Attributes:
        name: The entry.
        fresh: Whether the classifiers start anew, for other classes or another data set.
        accuracies: The entry's, where images and splits are the same; else empty.
        weights: sha256 of each file of weights.
    """

    name: str
    fresh: bool
    accuracies: dict[str, float]
    weights: list[str]

    @property
    def origin(self) -> str:
        """Where the weights came from, in a sentence."""
        return f"Started from {self.name!r} of the zoo{', the classifier anew' if self.fresh else ''}."

    @property
    def note(self) -> str:
        """What a person must know when nothing is trained before the search."""
        if not self.fresh:
            return self.origin
        return (
            f"{self.origin} Accuracies on this data set say nothing until the search has adapted the supernet "
            "(search.adapt_epochs), or until it was trained on (train.phases)."
        )


def with_settings(section: SpaceSection, card: Card) -> SpaceSection:
    """Return a run file's ``space`` with the card's settings for those it leaves out.

    Raises:
        ConfigError: It names another space.
    """
    if section.name != card.space.name:
        raise ConfigError(
            f"space.name={section.name!r}, but the pretrained supernet {card.name!r} is of space {card.space.name!r}. "
            f"Set space.name={card.space.name}, or leave it out."
        )
    given = {key: value for key, value in card.space.settings.items() if key not in FROM_DATA}
    return section.model_copy(update={"settings": {**given, **section.settings}})


def _images_of(description: dict[str, Any]) -> dict[str, Any]:
    """Return what two descriptions of preprocessing must share: not the resolution, not the data set's own moments."""
    kept = {key: value for key, value in description.items() if key not in ("input_shape", "mean", "std", "resize")}
    kept["resize"] = {key: value for key, value in description["resize"].items() if key != "size"}
    return kept


def check_images(entry: Entry, data: ImageData) -> None:
    """Raise unless the images are of the kind an entry was trained on.

    Raises:
        DataError: Channels, stored size or preprocessing differ; the keys are named.
    """
    stored, here = _images_of(entry.card.data.preprocessing), _images_of(data.preprocessing(data.image_size))
    if stored == here:
        return
    mend = "Use images of that kind"
    if stored["stored_size"] != here["stored_size"]:
        mend = f"Set data.image_size={stored['stored_size']}"
    raise DataError(
        f"the pretrained supernet {entry.name!r} reads other images than {data.name} has "
        f"({settings_differences(stored, here)}). {mend}, or train without train.pretrained."
    )


def same_data(card: Card, data: ImageData) -> bool:
    """Whether ``data`` is the data set of a card, perhaps split or decoded otherwise."""
    return card.data.digest == data.digest or (card.data.name, card.data.classes) == (data.name, data.classes)


def check_start(entry: Entry, config: RunConfig, space: SearchSpace[Any], data: ImageData) -> None:
    """Raise unless a run can start from an entry.

    Raises:
        ModelFileError: A file of the entry is absent or damaged, or its card contradicts itself.
        SpaceError: The space is another; what differs is named.
        DataError: The data set is the same, but splits make images judge that were trained on.
        ConfigError: The classifiers start anew and nothing would train them.
    """
    entry.verify()
    space_of(entry.card)
    stored, here = dict(entry.card.space.settings), space.settings()
    if "classes" in stored and "classes" in here:
        stored["classes"] = here["classes"]
    differences = settings_differences(stored, here)
    if differences:
        raise SpaceError(
            f"space.settings differ from those of the pretrained supernet {entry.name!r} ({differences}). Leave "
            "space.settings out, or train a supernet for this space without train.pretrained."
        )
    if same_data(entry.card, data):
        _check_splits(entry.card, config.data, data)
    elif not config.train.phases and not config.search.adapt_epochs:
        raise ConfigError(
            f"search.adapt_epochs=0, but the classifier of {entry.name!r} starts anew for {data.name}: nothing would ever "
            "train it. Let the search adapt, or give train.phases."
        )


def _check_splits(card: Card, section: DataSection, data: ImageData) -> None:
    if card.data.digest == data.digest:
        return
    here = section.model_dump(mode="json")
    differing = [key for key in SPLIT_KEYS if card.data.split.get(key) != here[key]]
    if differing:
        detail = "; ".join(f"data.{key}: {card.data.split.get(key)!r} there, {here[key]!r} here" for key in differing)
        raise DataError(
            f"the pretrained supernet {card.name!r} was trained on {data.name} split otherwise ({detail}): images that judge "
            "here were trained on there. Give the splits of the card."
        )
    if any(card.data.sizes[name] != data.sizes[name] for name in JUDGES):
        detail = "; ".join(f"{name}: {card.data.sizes[name]} there, {data.sizes[name]} here" for name in JUDGES)
        raise DataError(
            f"data.source holds other images of {data.name} than the pretrained supernet {card.name!r} was trained on "
            f"({detail}), so splits differ: images that judge here may have been trained on there. Bring the former images "
            "back, or train without train.pretrained."
        )


def start_from(entry: Entry, supernet: AnySupernet, data: ImageData, folder: Path) -> Start:
    """Give a supernet the weights of an entry and save it in ``folder``.

    Args:
        entry: The entry.
        supernet: With fresh weights; classifiers keep theirs where the data set is another.
        data: The images.
        folder: The supernet's folder of a run.

    Raises:
        ModelFileError: The entry's files are damaged, or do not fit the supernet.
        ConfigError: The classifiers cannot be told from the rest.
    """
    fresh = not same_data(entry.card, data)
    if fresh:
        load_body(supernet, entry)
    else:
        load_weights(supernet, entry)
    networks = entry.card.accuracies.networks if entry.card.data.digest == data.digest else ()
    start = Start(
        name=entry.name,
        fresh=fresh,
        accuracies={network.name: network.accuracy for network in networks},
        weights=[weight.sha256 for weight in entry.card.weights],
    )
    supernet.save(folder, {"pretrained": entry.name})
    write_json(folder / LOADED, asdict(start))
    return start


def read_start(folder: Path) -> Start:
    """Return what :func:`start_from` left in a folder.

    Raises:
        ModelFileError: It is not that.
    """
    try:
        return Start(**read_json(folder / LOADED))
    except TypeError as error:
        raise ModelFileError(f"{folder / LOADED} is damaged ({error}). Restore it, or start another run.") from error
