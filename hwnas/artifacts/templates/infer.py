"""Run this model: ``python infer.py IMAGE [IMAGE ...]`` prints its best labels; ``--json`` for programs.

Needs Python 3.9, numpy and the runtime named in manifest.json. Images are ``.npy`` (uint8 ``[h, w]`` or ``[h, w, c]``),
``.pgm``/``.ppm``, or anything Pillow reads where it is installed. As a library: ``load(folder)`` and ``preprocess``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Manifest = dict[str, Any]


class NotHere(Exception):
    """This machine lacks what the model needs; the message says what to do."""


def threads_of(manifest: Manifest) -> int:
    """Return the threads of the manifest's target (``...-tN-bM``)."""
    for part in manifest["target"].split("/")[-1].split("-"):
        if part[:1] == "t" and part[1:].isdigit():
            return int(part[1:])
    return 1


def load_runtime(folder: pathlib.Path, runtime: str) -> Any:
    """Return the module ``runtime.py`` of the artifact, which opens and runs its model.

    Raises:
        NotHere: There is none for this runtime.
    """
    spec = importlib.util.spec_from_file_location("hwnas_artifact_runtime", folder / "runtime.py")
    if spec is None or spec.loader is None or not (folder / "runtime.py").is_file():
        raise NotHere(f"this script cannot run a {runtime} model; use: hwnas verify {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(folder: str | os.PathLike[str]) -> tuple[Manifest, Any]:
    """Return ``(manifest, model)`` of an artifact folder.

    Raises:
        NotHere: The runtime is not installed, or cannot be used without hwnas.
    """
    folder = pathlib.Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    name = manifest["runtime"]["name"]
    runtime = load_runtime(folder, name)
    path = next(entry["path"] for entry in manifest["files"] if entry["role"] == "model")
    try:
        return manifest, runtime.Model(folder / path, manifest, threads_of(manifest))
    except ImportError as error:
        raise NotHere(f"{name} is not installed here ({error}). Install it with: {runtime.INSTALL}") from error


def resize_weights(source: int, target: int, start: float = 0.0, length: float | None = None) -> Array:
    """Return the matrix ``[target, source]`` of the antialiased bilinear filter over ``length`` pixels from ``start``."""
    scale = (source if length is None else length) / target
    centres = start + (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.clip(1.0 - distance, 0.0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def centre_square(pixels: Array, size: int) -> Array:
    """Return the centre square of ``[c, h, w]`` at ``[c, size, size]``, rounded to whole levels."""
    height, width = pixels.shape[1:]
    if (height, width) == (size, size):
        return pixels
    side = min(height, width)
    rows = resize_weights(height, size, (height - side) / 2, side)
    columns = resize_weights(width, size, (width - side) / 2, side)
    return np.asarray(np.clip(np.rint(rows @ pixels @ columns.T), 0, 255))


def to_channels(pixels: Array, channels: str) -> Array:
    """Return ``[c, h, w]`` in gray (Rec. 601 luma) or RGB of ``[h, w]``, ``[h, w, 1]``, ``[h, w, 3]`` or ``[h, w, 4]``."""
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    pixels = pixels[:, :, :3].astype(np.float64)
    if channels == "gray" and pixels.shape[2] == 3:
        pixels = np.rint(pixels @ np.array([[0.299], [0.587], [0.114]]))
    elif channels == "RGB" and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels.transpose(2, 0, 1)


def preprocess(image: Array, manifest: Manifest) -> Array:
    """Return the input ``[1, c, r, r]`` float32 of a uint8 image ``[h, w]`` or ``[h, w, c]``."""
    how = manifest["preprocessing"]
    if how is None:
        raise NotHere("manifest.json names no preprocessing: give the model its input tensors yourself")
    pixels = centre_square(to_channels(np.asarray(image), how["channels"]), how["stored_size"]) * how["scale"]
    side = how["resize"]["size"]
    if pixels.shape[1] != side:
        weights = resize_weights(pixels.shape[1], side)
        pixels = weights @ pixels @ weights.T
    mean, std = (np.asarray(how[key], np.float64)[:, None, None] for key in ("mean", "std"))
    return np.ascontiguousarray(((pixels - mean) / std)[None], dtype=np.float32)


def read_image(path: str | os.PathLike[str]) -> Array:
    """Return the uint8 pixels ``[h, w]`` or ``[h, w, c]`` of a file."""
    path = pathlib.Path(path)
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix in (".pgm", ".ppm"):
        return read_netpbm(path.read_bytes())
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise NotHere(f"{path} needs Pillow (pip install pillow); .npy, .pgm and .ppm do not") from error
    with Image.open(path) as image:
        return plain_pixels(ImageOps.exif_transpose(image))


def plain_pixels(image: Any) -> Array:
    """Return gray or RGB pixels as in training: 16-bit gray keeps its upper 8 bits, transparency is dropped."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return (values >> 8 if values.size and values.max() > 255 else values).clip(0, 255).astype(np.uint8)
    if image.mode == "F":
        raise ValueError("floating-point pictures have no defined range; store 8 or 16 bits a channel")
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))


def read_netpbm(data: bytes) -> Array:
    """Return the pixels of a binary PGM (P5) or PPM (P6) with 8 bits per value."""
    fields: list[bytes] = []
    position = 0
    while len(fields) < 4:
        end = position
        while data[end : end + 1] not in (b" ", b"\n", b"\t", b"\r", b""):
            end += 1
        word = data[position:end]
        if word.startswith(b"#"):
            end = data.index(b"\n", position)
        elif word:
            fields.append(word)
        position = end + 1
    channels = {b"P5": 1, b"P6": 3}.get(fields[0])
    if channels is None or fields[3] != b"255":
        raise NotHere("only binary PGM and PPM files with 8 bits per value can be read without Pillow")
    width, height = int(fields[1]), int(fields[2])
    pixels = np.frombuffer(data, np.uint8, width * height * channels, position)
    return pixels.reshape(height, width) if channels == 1 else pixels.reshape(height, width, channels)


def classify(model: Any, manifest: Manifest, image: Array, top: int) -> list[tuple[str, float]]:
    """Return the ``top`` best ``(label, probability)`` pairs of one image, by softmax of the first output."""
    batch = manifest["inputs"][0]["shape"][0]
    tensor = np.repeat(preprocess(image, manifest), batch, axis=0)
    logits = model.run({manifest["inputs"][0]["name"]: tensor})[manifest["outputs"][0]["name"]][0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    labels = manifest["labels"] or [str(index) for index in range(len(shares))]
    return [(labels[index], float(shares[index])) for index in np.argsort(-shares)[:top]]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Print the best labels of images.")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--top", type=int, default=3, help="labels to print per image")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        manifest, model = load(os.path.dirname(os.path.abspath(__file__)))
        answers = {path: classify(model, manifest, read_image(path), options.top) for path in options.images}
    except (NotHere, OSError, ValueError) as error:
        print(f"infer.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({path: [{"label": a, "probability": b} for a, b in best] for path, best in answers.items()}))
        return 0
    for path, best in answers.items():
        print(path + ": " + ", ".join(f"{label} {100 * share:.1f} %" for label, share in best))
    return 0


if __name__ == "__main__":
    sys.exit(main())
