"""Checks of what a backend is given: modules, example images, calibration images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ConfigError, ModelFileError

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]


def forward_once(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Run a module and insist that it returns one tensor, batch first.

    Args:
        module: In the mode it is to be run in.
        batch: Input ``[b, ...]``.

    Raises:
        ModelFileError: It fails on the input, or returns something else.
    """
    import torch

    try:
        with torch.no_grad():
            output = module(batch)
    except Exception as error:
        raise ModelFileError(
            f"{type(module).__name__} cannot be run on an input of shape {tuple(batch.shape)}: {error}"
        ) from error
    if not isinstance(output, torch.Tensor):
        kind = f"a {type(output).__name__}"
        if isinstance(output, (tuple, list, dict)):
            kind += f" of {len(output)}"
        raise ModelFileError(
            f"{type(module).__name__} returns {kind}, but a module to export must return one tensor. "
            "Wrap it in a module whose forward returns the tensor you need."
        )
    if output.ndim == 0 or output.shape[0] != batch.shape[0]:
        raise ModelFileError(
            f"{type(module).__name__} returns shape {tuple(output.shape)} for an input of shape {tuple(batch.shape)}; "
            "the first dimension must be the batch."
        )
    return output


def repeat_to_batch(images: FloatArray, batch: int) -> list[FloatArray]:
    """Cut ``images`` ``[n, ...]`` into batches ``[batch, ...]``; the last one is filled up with its last image."""
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        parts.append(np.ascontiguousarray(np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])))
    return parts


def check_weight_bits(bits: int) -> int:
    """Return ``bits`` if int8 weights can be made with them.

    Raises:
        ConfigError: Neither 7 nor 8.
    """
    if bits not in (7, 8):
        raise ConfigError(f"weight_bits={bits} must be 7 (x86 without 8-bit dot products) or 8.")
    return bits


def check_calibration(calibration: Any, shape: tuple[int, ...]) -> FloatArray:
    """Return calibration images as float32 ``[n, *shape]``.

    Raises:
        ConfigError: They are absent, empty, of another shape, not numbers or not finite.
    """
    if calibration is None:
        raise ConfigError(
            "int8 needs calibration images: pass calibration=array of shape [n, channels, height, width]."
        )
    array = np.asarray(calibration)
    if array.dtype.kind not in "fiu":
        raise ConfigError(f"calibration images must be numbers, not {array.dtype}.")
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise ConfigError(f"calibration images have shape {array.shape}, not [n, {', '.join(map(str, shape))}].")
    if not len(array):
        raise ConfigError("calibration images are empty: pass at least one real image.")
    if not np.isfinite(array).all():
        raise ConfigError("calibration images hold NaN or an infinity; preprocess them as the network's inputs are.")
    return np.ascontiguousarray(array, dtype=np.float32)


def check_example(example: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of one image.

    Raises:
        ConfigError: Not a float32 tensor with at least one image.
    """
    import torch

    if not isinstance(example, torch.Tensor) or example.dtype != torch.float32 or example.ndim < 2 or not len(example):
        what = (
            f"{example.dtype} {tuple(example.shape)}" if isinstance(example, torch.Tensor) else type(example).__name__
        )
        raise ConfigError(f"example must be a float32 tensor [n, channels, height, width] with n >= 1, not {what}.")
    return tuple(example.shape[1:])
