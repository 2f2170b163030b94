"""What ncnn's files say without running them: names and shapes of inputs and outputs, and how weights are stored."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import BinaryIO, Dict, List, Tuple

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Tensor

_MAGIC = "7767517"
_HALF, _INT8, _FLOAT = 0x01306B47, 0x000D4B38, 0x0002C056
_WEIGHTED = {
    "Convolution": (6, 5),
    "ConvolutionDepthWise": (6, 5),
    "Deconvolution": (6, 5),
    "DeconvolutionDepthWise": (6, 5),
    "InnerProduct": (2, 1),
}
"""Layer type -> numbers of the parameters that say how many weights there are, and whether there are biases."""


def read_tensors(path: Path) -> Tuple[Tuple[Tensor, ...], Tuple[Tensor, ...]]:
    """Return inputs and outputs from ``model.json``, which hwnas writes beside ncnn's files.

    Raises:
        Failure: ``load_failed``, when it is absent, or says something else.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        inputs, outputs = (_tensors(described[key]) for key in ("inputs", "outputs"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            "load_failed",
            f"{path.name}, which says what ncnn's files do not (names and shapes), cannot be used: "
            f"{type(error).__name__}: {error}; export the model again",
        ) from error
    return inputs, outputs


def _tensors(entries: object) -> Tuple[Tensor, ...]:
    if not isinstance(entries, list) or not entries:
        raise ValueError("a list of tensors was expected")
    found = []
    for entry in entries:
        name, shape = entry["name"], entry["shape"]
        if not isinstance(name, str) or not all(type(size) is int and size > 0 for size in shape):
            raise ValueError(f"tensor {name!r} has the shape {shape!r}")
        if not 2 <= len(shape) <= 5 or shape[0] != 1:
            raise ValueError(f"tensor {name!r} has the shape {shape!r}; one image, batch first, was expected")
        found.append(Tensor(name, tuple(shape), "float32"))
    return tuple(found)


def _layers(path: Path) -> List[Tuple[str, Dict[int, int]]]:
    """Return type and whole-number parameters of every layer."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != _MAGIC:
        raise ValueError(f"it does not begin with {_MAGIC}")
    found = []
    for words in (line.split() for line in lines[2:] if line.strip()):
        settings = words[4 + int(words[2]) + int(words[3]) :]
        pairs = (word.partition("=") for word in settings)
        found.append((words[0], {int(key): int(value) for key, _, value in pairs if value.lstrip("-").isdigit()}))
    return found


def _skip_weight(stream: BinaryIO, count: int) -> str:
    """Step over one array of weights; returns how it is stored."""
    (tag,) = struct.unpack("<I", stream.read(4))
    if tag == _HALF:
        stream.seek((count * 2 + 3) // 4 * 4, 1)
        return "fp16"
    if tag in (0, _FLOAT):
        stream.seek(count * 4, 1)
        return "fp32"
    if tag == _INT8:
        return "int8"
    raise ValueError(f"weights begin with {tag:#010x}, which is not a way ncnn stores them")


def _skip_layer(stream: BinaryIO, kind: str, settings: Dict[int, int]) -> str:
    """Step over the weights of a layer; returns how they are stored, nothing if it has none that can be stored in several ways."""
    if kind in _WEIGHTED:
        size, bias = (settings.get(key, 0) for key in _WEIGHTED[kind])
        stored = _skip_weight(stream, size)
        stream.seek(settings.get(0, 0) * 4 if bias else 0, 1)
        return stored
    if kind == "BatchNorm":
        stream.seek(settings.get(0, 0) * 16, 1)
    elif kind == "PReLU":
        stream.seek(settings.get(0, 0) * 4, 1)
    return ""


def stored_precision(param: Path, weights: Path) -> str:
    """Return how the weights are stored: ``fp32``, ``fp16``, ``int8``, or several of them with a plus sign between.

    Raises:
        Failure: ``load_failed``, when the files are not ncnn's or do not fit each other; ``fallback``, when there are weights
            of which this cannot be told.
    """
    found = set()
    try:
        size = weights.stat().st_size
        with weights.open("rb") as stream:
            for kind, settings in _layers(param):
                found.add(_skip_layer(stream, kind, settings))
                if "int8" in found:
                    break
            end = stream.tell()
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise Failure("load_failed", f"{param.name} and {weights.name} are not a network of ncnn: {error}") from error
    found.discard("")
    if "int8" not in found and (end != size or not found):
        raise Failure(
            "fallback",
            f"it cannot be told in which precision the weights of {weights.name} are stored: after {end} of {size} bytes "
            "come some of a layer that is not known here",
        )
    return "+".join(sorted(found))
