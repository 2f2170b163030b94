"""One picture, whatever it comes as, to one square uint8 array."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hwnas.errors import DataError

Pixels = NDArray[np.uint8]
"""A square picture: gray ``[s, s]`` or colour ``[s, s, 3]``."""

Job = tuple[int, str, bytes | Path]
"""A row, the name to blame, and the encoded picture or the file that holds it."""

_CHUNK = 32


def _wide_to_gray(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and int(values.max()) > 255:
        values = values >> 8
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _plain_mode(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode.startswith("I"):
        return _wide_to_gray(image)
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined range; store 8 or 16 bits a channel")
    return image.convert("RGB")


def square_pixels(image: Image.Image, size: int) -> Pixels:
    """Return the centre square of ``image`` at ``size``: antialiased bilinear, untouched where it already fits.

    Gray pictures stay gray; 16-bit ones keep their upper 8 bits; palettes and CMYK become RGB, transparency is dropped.
    """
    image = _plain_mode(image)
    if image.size != (size, size):
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(image)


def decode_picture(data: bytes, size: int, name: str) -> Pixels:
    """Decode one encoded picture, turned upright as its EXIF orientation says.

    Raises:
        DataError: It is not a picture that can be read; ``name`` is in the message.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return square_pixels(ImageOps.exif_transpose(image), size)
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise DataError(f"{name} cannot be read as a picture ({error}). Mend or remove that file.") from error


def _from_floats(values: NDArray[Any]) -> NDArray[Any]:
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("floating-point pixels must lie in [0, 1]; leave normalising to hwnas")
    scaled: NDArray[Any] = np.rint(values * 255)
    return scaled


def array_pixels(values: Any, size: int) -> Pixels:
    """Return the square picture of an array or tensor: ``[h, w]``, ``[h, w, c]`` or ``[c, h, w]``.

    Integers must lie in [0, 255], floats in [0, 1].

    Raises:
        ValueError: Another shape, type or range.
    """
    array = np.asarray(values)
    if array.dtype.kind == "f":
        array = _from_floats(array)
    elif array.dtype.kind not in "iu" or (array.size and not (array.min() >= 0 and array.max() <= 255)):
        raise ValueError(f"integer pixels must lie in [0, 255] (dtype {array.dtype})")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if 0 in array.shape or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"expected one gray or RGB picture, got an array of shape {array.shape}")
    return square_pixels(Image.fromarray(np.ascontiguousarray(array.astype(np.uint8))), size)


def any_pixels(picture: Any, size: int) -> Pixels:
    """Return the square picture of a PIL image, array or tensor.

    Raises:
        ValueError: It is none of them, or its shape, type or range cannot be used.
    """
    if isinstance(picture, Image.Image):
        return square_pixels(picture, size)
    return array_pixels(picture, size)


def _decode_jobs(jobs: list[Job], size: int) -> list[tuple[int, Pixels]]:
    done = []
    for row, name, source in jobs:
        if isinstance(source, Path):
            try:
                source = source.read_bytes()
            except OSError as error:
                raise DataError(f"{name} cannot be opened ({error.strerror}). Mend or remove that file.") from error
        done.append((row, decode_picture(source, size, name)))
    return done


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_parallel(jobs: Iterable[Job], size: int) -> Iterator[tuple[int, Pixels]]:
    """Decode pictures in threads and yield ``(row, pixels)`` in order, with a bounded number in flight.

    Raises:
        DataError: A picture cannot be read.
    """
    workers = usable_cores()
    source = iter(jobs)
    pending: deque[Future[list[tuple[int, Pixels]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while chunk := list(islice(source, _CHUNK)):
                pending.append(pool.submit(_decode_jobs, chunk, size))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
