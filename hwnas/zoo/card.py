"""The card of an entry: what the supernet is, of what data and training it came, and how accurate its networks are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hwnas.config import Section, explain_validation
from hwnas.errors import ModelFileError

CARD = "card.json"
FORMAT = 1
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class WeightFile(Section):
    """One file of weights beside the card."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors$")
    size_bytes: int
    sha256: str


class SpaceFacts(Section):
    """The search space; settings are complete."""

    name: str
    settings: dict[str, Any]
    digest: str


class DataFacts(Section):
    """The images it was trained on.

    Attributes:
        name: As reports call it.
        digest: sha256 over images, labels, classes and splits.
        classes: Their names, in order.
        sizes: Images in each split.
        split: The keys of the run file's ``data`` that decide about the splits.
        augment: Augmentation in training.
        image_size: Side of the stored images, pixels.
        mean: Mean per channel of the training images, in [0, 1] units.
        std: Standard deviation per channel.
        preprocessing: From stored bytes to input, at the stored size.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    sizes: dict[str, int]
    split: dict[str, Any]
    augment: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: dict[str, Any]


class TrainingFacts(Section):
    """How it was trained.

    Attributes:
        recipe: The run file's ``train``, complete.
        phases: Name and steps of each phase.
        steps: Optimiser steps.
        seconds: Time of training.
        seed: Seed of weights, order and draws.
        machine: Model and number of cores of the CPU on which the entry was made.
        versions: Of the packages that made it.
    """

    recipe: dict[str, Any]
    phases: list[dict[str, Any]]
    steps: int
    seconds: float
    seed: int
    machine: dict[str, Any]
    versions: dict[str, str]


class NetworkFacts(Section):
    """One network of the supernet, measured with the weights of this entry.

    Attributes:
        name: ``largest``, ``smallest``, ``random-0``, ...
        encoding: Its integers.
        parameters: Their number.
        macs: Multiply-accumulates of one image.
        accuracy: Share of the images that it classifies right.
        standard_error: ``sqrt(p (1 - p) / n)`` of that share.
    """

    name: str
    encoding: tuple[int, ...]
    parameters: int
    macs: int
    accuracy: float
    standard_error: float


class AccuracyFacts(Section):
    """Accuracies after recalibration of the batch normalisation with ``bn_images`` training images."""

    split: str
    images: int
    bn_images: int
    metric: str
    networks: tuple[NetworkFacts, ...]


class Card(Section):
    """Everything known of an entry. ``parameters`` are the supernet's, ``note`` is the maker's."""

    format: int
    name: str = Field(pattern=NAME)
    note: str
    supernet: str
    parameters: int
    weights: tuple[WeightFile, ...] = Field(min_length=1)
    space: SpaceFacts
    data: DataFacts
    training: TrainingFacts
    accuracies: AccuracyFacts

    @property
    def size_bytes(self) -> int:
        """Size of all weight files."""
        return sum(weight.size_bytes for weight in self.weights)

    def accuracy_of(self, name: str) -> float:
        """Return the accuracy of a network by name; NaN if it was not measured."""
        found = (network.accuracy for network in self.accuracies.networks if network.name == name)
        return next(found, float("nan"))


def read_card(folder: Path) -> Card:
    """Read the card in an entry's folder.

    Raises:
        ModelFileError: It is absent, damaged, or of another format.
    """
    path = folder / CARD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{folder} is no entry of the zoo: it holds no {CARD}. Entries are made with: hwnas zoo add RUN_FOLDER NAME"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{path} cannot be read ({error}). Restore it from where the entry came.") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise ModelFileError(
            f"{path} is a card of format {found!r}; this version of hwnas reads format {FORMAT}. Use the version that "
            "wrote it, or make the entry again: hwnas zoo add RUN_FOLDER NAME --replace"
        )
    try:
        return Card.model_validate(raw)
    except ValidationError as error:
        raise ModelFileError(explain_validation(error, Card, str(path))) from error
