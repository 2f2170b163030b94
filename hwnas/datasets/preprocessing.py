"""From stored bytes to what a network reads: the one definition, used in training, search, export and verification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

AUGMENTATIONS = ("none", "shift", "shift-flip")


@dataclass(frozen=True)
class Preprocessing:
    """Scale to [0, 1], resize (bilinear, antialiased, half-pixel centres), normalise per channel.

    Attributes:
        image_size: Side of the stored images, pixels.
        mean: Mean of each channel of the training images, in [0, 1] units.
        std: Standard deviation of each channel, in [0, 1] units.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, resolution: int) -> Tensor:
        """Preprocess a batch.

        Args:
            images: uint8 ``[b, c, s, s]``.
            resolution: Side the network reads, pixels; equal to ``s``: nothing is resized.

        Returns:
            float32 ``[b, c, resolution, resolution]``, channels last.
        """
        values = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
        if values.shape[-1] != resolution:
            values = functional.interpolate(
                values, size=(resolution, resolution), mode="bilinear", align_corners=False, antialias=True
            )
        mean = torch.tensor(self.mean, dtype=torch.float32, device=values.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=values.device).view(1, -1, 1, 1)
        return values.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)

    def describe(self, resolution: int) -> dict[str, Any]:
        """Return the definition as plain data, for manifests."""
        return {
            "input_shape": [len(self.mean), resolution, resolution],
            "layout": "NCHW",
            "dtype": "float32",
            "channels": "gray" if len(self.mean) == 1 else "RGB",
            "crop": "centre square",
            "stored_size": self.image_size,
            "scale": 1 / 255,
            "resize": {"size": resolution, "interpolation": "bilinear", "antialias": True},
            "mean": list(self.mean),
            "std": list(self.std),
        }


def augment_batch(images: Tensor, augment: str, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side (black comes in) and, with ``shift-flip``, mirror half of them.

    Args:
        images: uint8 ``[b, c, s, s]``.
        augment: One of :data:`AUGMENTATIONS`.
        generator: Where the randomness comes from.

    Returns:
        uint8 ``[b, c, s, s]``.

    Raises:
        ValueError: Unknown ``augment``.
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment={augment!r} must be one of {AUGMENTATIONS}")
    if augment == "none":
        return images
    count, side = images.shape[0], images.shape[-1]
    margin = max(1, round(side / 8))
    padded = functional.pad(images, (margin,) * 4)
    offsets = torch.randint(0, 2 * margin + 1, (2, count, 1), generator=generator)
    line = torch.arange(side).expand(count, side)
    rows, columns = line + offsets[0], line
    if augment == "shift-flip":
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, side - 1 - columns, columns)
    columns = columns + offsets[1]
    picked = padded[torch.arange(count).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)]
    return picked.permute(0, 3, 1, 2)
