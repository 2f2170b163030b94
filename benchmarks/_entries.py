"""What benchmarks of a supernet of the zoo share: the arguments that name its data, and reading it."""

from __future__ import annotations

import argparse

from hwnas.config import DataSection
from hwnas.datasets.data import ImageData, load_data


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the side of the images and the shares of their splits; ``--data`` is the benchmark's own."""
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--data-validation", type=float, default=0.15, help="share of the validation split")
    parser.add_argument("--data-gate", type=float, default=0.05, help="share of the gate split")


def data_of(arguments: argparse.Namespace) -> ImageData:
    """Return the images that the arguments name."""
    return load_data(
        DataSection(
            source=arguments.data,
            image_size=arguments.image_size,
            validation=arguments.data_validation,
            gate=arguments.data_gate,
        )
    )
