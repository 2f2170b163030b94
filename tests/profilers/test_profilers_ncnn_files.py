from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas_profilers.ncnn_files import read_tensors, stored_precision
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.ncnn import refuse_limit

PARAM = """7767517
4 4
Input          in0   0 1 in0
Convolution    conv  1 1 in0 1 0=2 1=1 5=1 6=5
BatchNorm      norm  1 1 1 2 0=2
InnerProduct   fc    1 1 2 out0 0=3 1=0 2=6 -23310=1,0.5
"""
TAGS = {"fp32": 0, "fp16": 0x01306B47, "int8": 0x000D4B38}


def weights(count: int, precision: str) -> bytes:
    data = np.zeros(count, np.float32 if precision == "fp32" else np.float16).tobytes()
    return struct.pack("<I", TAGS[precision]) + data + b"\0" * (-len(data) % 4)


def network(folder: Path, first: str, second: str, *, more: bytes = b"") -> tuple[Path, Path]:
    param, data = folder / "model.param", folder / "model.bin"
    param.write_text(PARAM)
    data.write_bytes(weights(5, first) + b"\0" * 8 + b"\0" * 32 + weights(6, second) + more)
    return param, data


@pytest.mark.parametrize(("first", "second"), [("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32")])
def test_how_weights_are_stored_is_read_from_every_layer(tmp_path: Path, first: str, second: str) -> None:
    expected = first if first == second else "fp16+fp32"
    assert stored_precision(*network(tmp_path, first, second)) == expected


def test_int8_weights_are_seen(tmp_path: Path) -> None:
    assert stored_precision(*network(tmp_path, "int8", "fp32")) == "int8"


def test_weights_that_are_not_known_cannot_be_vouched_for(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="fallback: it cannot be told in which precision"):
        stored_precision(*network(tmp_path, "fp32", "fp32", more=b"1234"))


@pytest.mark.parametrize("cut", [0, 3, 60])
def test_weights_that_end_early_are_refused(tmp_path: Path, cut: int) -> None:
    param, data = network(tmp_path, "fp32", "fp32")
    data.write_bytes(data.read_bytes()[:cut])
    with pytest.raises(Failure):
        stored_precision(param, data)


@pytest.mark.parametrize("text", ["", "hello", "7767517\n1 1\nInput in0", "7767517\n1 1\nInput in0 a b c"])
def test_what_is_not_a_network_is_refused(tmp_path: Path, text: str) -> None:
    param, data = network(tmp_path, "fp32", "fp32")
    param.write_text(text)
    with pytest.raises(Failure, match="load_failed"):
        stored_precision(param, data)


def description(**changed: Any) -> dict[str, Any]:
    inputs = [{"name": "in0", "shape": [1, 3, 8, 8], **changed}]
    return {"inputs": inputs, "outputs": [{"name": "out0", "shape": [1, 10]}]}


def test_names_and_shapes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(description()))
    inputs, outputs = read_tensors(path)
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in (*inputs, *outputs)] == [
        ("in0", (1, 3, 8, 8), "float32"),
        ("out0", (1, 10), "float32"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        description(shape=[2, 3, 8, 8]),
        description(shape=[1, 0, 8, 8]),
        description(shape=[1, 3.5]),
        description(shape=[1]),
        description(shape="1388"),
        description(name=3),
        {"inputs": [], "outputs": []},
        {"inputs": [1]},
        [],
    ],
)
def test_a_description_that_cannot_be_used_is_refused(tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "model.json"
    with pytest.raises(Failure, match="export the model again"):
        read_tensors(path)
    path.write_text(json.dumps(wrong))
    with pytest.raises(Failure, match=r"load_failed: model\.json"):
        read_tensors(path)


def test_threads_that_openmp_would_not_start_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    refuse_limit(64)
    monkeypatch.setenv("OMP_THREAD_LIMIT", "2")
    refuse_limit(2)
    with pytest.raises(Failure, match=r"fallback: 3 threads were asked for, OMP_THREAD_LIMIT=2 allows 2"):
        refuse_limit(3)
