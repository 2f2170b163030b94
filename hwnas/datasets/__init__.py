"""Data sets: folders, archives, torchvision names, any torch ``Dataset``; decoded once, split in four."""

from __future__ import annotations

from hwnas.datasets.data import ImageData, load_data
from hwnas.datasets.split import Split

__all__ = ["ImageData", "Split", "load_data"]
