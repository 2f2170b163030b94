"""Engines that are kept: by what, and which are refused; what an engine says of its layers."""

from __future__ import annotations

import json
import os
import shutil
from ctypes.util import find_library
from pathlib import Path

import pytest

from hwnas_profilers import engine_cache
from hwnas_profilers.cuda import Driver
from hwnas_profilers.engine_cache import KEY, EngineCache, cache_folder, engine_name
from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec
from hwnas_profilers.tensorrt_build import Built, explain
from hwnas_profilers.tensorrt_engine import engine_facts, kept_or_built, read_file
from hwnas_profilers.tensorrt_layers import computing_precisions, join, read_layers

FACTS = engine_facts("tensorrt_rtx", "1.7.1.116", "NVIDIA GeForce RTX 3080", "sm86", b"onnx")
OTHER = engine_facts("tensorrt_rtx", "1.7.1.116", "NVIDIA GeForce RTX 3090", "sm86", b"onnx")


def lying(folder: Path, facts: dict[str, str] = FACTS) -> Path:
    """The file of an engine."""
    return folder / f"{engine_name(facts)}.bin"


def test_what_is_kept_is_found_again_and_nothing_else(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    assert cache.get(FACTS) == (None, "")
    cache.put(FACTS, b"engine")
    assert EngineCache(tmp_path).get(FACTS) == (b"engine", "")
    assert EngineCache(tmp_path).get(OTHER) == (None, "")


def test_every_fact_is_in_the_name() -> None:
    changed = [
        engine_facts("tensorrt", "1.7.1.116", "NVIDIA GeForce RTX 3080", "sm86", b"onnx"),
        engine_facts("tensorrt_rtx", "1.7.2", "NVIDIA GeForce RTX 3080", "sm86", b"onnx"),
        OTHER,
        engine_facts("tensorrt_rtx", "1.7.1.116", "NVIDIA GeForce RTX 3080", "sm89", b"onnx"),
        engine_facts("tensorrt_rtx", "1.7.1.116", "NVIDIA GeForce RTX 3080", "sm86", b"another"),
        {**FACTS, "options": "TF32"},
    ]
    assert len({engine_name(facts) for facts in [FACTS, *changed]}) == 7


def test_an_engine_from_elsewhere_is_refused(tmp_path: Path) -> None:
    mine, theirs = EngineCache(tmp_path / "mine"), EngineCache(tmp_path / "theirs")
    theirs.put(FACTS, b"native code of somebody else")
    for name in (lying(Path(), FACTS).name, lying(Path(), FACTS).with_suffix(".json").name):
        shutil.copy(theirs.folder / name, mine.folder / name)
    content, refused = mine.get(FACTS)
    assert content is None
    assert "not made by this installation" in refused


def test_a_changed_engine_is_refused(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(FACTS, b"engine")
    lying(tmp_path).write_bytes(b"enginf")
    assert cache.get(FACTS) == (None, "it was not made by this installation, or was changed since")


def test_an_engine_without_its_record_is_refused(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(FACTS, b"engine")
    for content in (None, "", "[]", "7"):
        record = lying(tmp_path).with_suffix(".json")
        record.unlink() if content is None else record.write_text(content)
        found, refused = cache.get(FACTS)
        assert found is None
        assert "record" in refused


def test_an_engine_for_another_gpu_is_refused_under_a_false_name(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.put(OTHER, b"engine")
    for suffix in (".bin", ".json"):
        shutil.copy(lying(tmp_path, OTHER).with_suffix(suffix), lying(tmp_path).with_suffix(suffix))
    assert cache.get(FACTS) == (None, "its record names another network, runtime or GPU")
    record = json.loads(lying(tmp_path).with_suffix(".json").read_text())
    lying(tmp_path).with_suffix(".json").write_text(json.dumps({**record, "facts": FACTS}))
    assert "not made by this installation" in cache.get(FACTS)[1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file modes")
def test_a_key_that_others_could_read_is_not_trusted(tmp_path: Path) -> None:
    EngineCache(tmp_path).put(FACTS, b"engine")
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    (tmp_path / KEY).chmod(0o644)
    assert EngineCache(tmp_path).get(FACTS)[0] is None
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600


def test_engines_that_were_not_used_for_long_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "KEPT_BYTES", 25)
    cache = EngineCache(tmp_path)
    networks = [engine_facts("tensorrt", "11", "GPU", "sm90", bytes([number])) for number in range(3)]
    for age, facts in zip((30, 20), networks, strict=False):
        cache.put(facts, b"0123456789")
        os.utime(lying(tmp_path, facts), (1e9 - age, 1e9 - age))
    assert cache.get(networks[0])[0] is not None  # used now, so that the second is the oldest
    cache.put(networks[2], b"0123456789")
    assert [cache.get(facts)[0] is not None for facts in networks] == [True, False, True]
    assert not lying(tmp_path, networks[1]).with_suffix(".json").exists()
    cache.put(networks[1], b"0" * 30)
    assert [cache.get(facts)[0] is not None for facts in networks] == [False, True, False]


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "engines"
    monkeypatch.delenv("HWNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hwnas" / "engines"


def test_an_engine_is_built_once_and_learns_from_those_before(tmp_path: Path) -> None:
    cache, given = EngineCache(tmp_path), []

    def make(learnt: bytes) -> Built:
        given.append(learnt)
        return Built(b"engine %d" % len(given), b"learnt %d" % len(given))

    second = engine_facts("tensorrt_rtx", "1.7.1.116", "NVIDIA GeForce RTX 3080", "sm86", b"another network")
    assert kept_or_built(cache, FACTS, make) == (b"engine 1", "the engine was built now")
    assert kept_or_built(cache, FACTS, make) == (b"engine 1", "the engine is one that was built here before")
    assert kept_or_built(cache, second, make)[0] == b"engine 2"
    assert kept_or_built(cache, OTHER, make)[0] == b"engine 3"
    assert given == [b"", b"learnt 1", b""]
    lying(tmp_path).write_bytes(b"tampered")
    engine, note = kept_or_built(cache, FACTS, make)
    assert engine == b"engine 4"
    assert "refused" in note
    assert kept_or_built(cache, FACTS, make)[0] == b"engine 4"
    assert "not kept" in kept_or_built(None, FACTS, make)[1]


def test_an_engine_file_is_never_opened(tmp_path: Path) -> None:
    for name in ("engine-sm86.rtx", "model.engine", "model.plan"):
        (tmp_path / name).write_bytes(b"ftrt")
        with pytest.raises(Failure, match="native code") as caught:
            read_file(tmp_path / name, LoadSpec("fp32"))
        assert caught.value.kind == "load_failed"


def test_a_machine_without_a_driver_is_told_so() -> None:
    with pytest.raises(Failure, match=r"no NVIDIA driver here \(libno-driver\.so\.1 is not there\)") as caught:
        Driver("libno-driver.so.1")
    assert caught.value.kind == "load_failed"


@pytest.mark.skipif(os.name == "nt", reason="takes a library of Unix for a driver")
def test_a_library_that_is_no_driver_is_told_so() -> None:
    with pytest.raises(Failure, match="the driver has no cuInit"):
        Driver(find_library("c") or "libc.so.6")


def test_what_tensorrt_says_is_sorted_and_said_without_its_source() -> None:
    turing = (
        "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot compile "
        "operation 'c' for Turing (SM75): FP32 GEMM is not supported. In compileGraph at /_src/optimizer/codeGenerator.cpp:2012)"
    )
    driver = "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
    memory = "Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
    assert [explain([text], "x").kind for text in (turing, driver, memory, "other")] == [
        "unsupported_op",
        "load_failed",
        "out_of_memory",
        "load_failed",
    ]
    assert "no NVIDIA driver here, or one that is too old" in explain([driver], "x").detail
    assert ".cpp" not in explain([turing], "x").detail
    assert explain([], "it failed").detail == "it failed: it gave no reason"


def layer(name: str, kind: str, inputs: list[dict[str, str]], output: str, nodes: list[str]) -> dict[str, object]:
    """One layer as the inspector of a detailed engine writes it."""
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [{"Name": output}], "Metadata": metadata}


TEN = {
    "Layers": [
        layer(
            "in", "Reformat", [{"Name": "input", "Format/Datatype": "Row major linear FP32"}], "q", ["input.quantize"]
        ),
        layer(
            "stem.conv + stem.act",
            "CaskConvolution",
            [{"Name": "q", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "stem.act",
            ["stem.conv", "stem.act"],
        ),
        layer(
            "head", "CaskGemmConvolution", [{"Name": "h", "Format/Datatype": "Float"}], "output", ["head.classifier"]
        ),
        layer("all", "Myelin", [{"Name": "x", "Format/Datatype": "Float"}], "y", ["b.conv", "c.conv"]),
    ],
    "Bindings": ["input", "output"],
}
ELEVEN = {
    "Layers": [
        layer(
            "stem", "kgen", [{"Name": "q", "Format": "Row major linear", "DataType": "Half"}], "stem.act", ["stem.conv"]
        )
    ]
}
COMPUTING = {"stem.conv", "head.classifier", "b.conv", "c.conv"}


def test_layers_are_read_as_both_versions_write_them() -> None:
    layers = read_layers(json.dumps(TEN))
    assert layers["stem.conv + stem.act"] == ("CaskConvolution", ("int8",), ("stem.act",), ("stem.conv", "stem.act"))
    assert layers["in"].types == ("fp32",)
    assert read_layers(json.dumps(ELEVEN))["stem"].types == ("fp16",)
    assert read_layers(json.dumps({"Layers": ["a", "b"]})) == {"a": ("", (), (), ()), "b": ("", (), (), ())}


def test_only_layers_of_one_computing_node_tell_a_precision() -> None:
    assert computing_precisions(read_layers(json.dumps(TEN)), COMPUTING) == {"int8": 1, "fp32": 1}
    assert computing_precisions(read_layers(json.dumps({"Layers": ["stem.conv"]})), COMPUTING) == {}


def test_kernels_are_named_after_the_file_and_timed_by_the_median() -> None:
    runs = [{"in": 0.5, "stem.conv + stem.act": 1.0 + run, "own": 9.0} for run in (0, 5, 1)]
    found = join(runs, read_layers(json.dumps(TEN)), {"stem.act", "output"})
    assert found == [
        Kernel("in", "Reformat", 0.5, (), ("input.quantize",)),
        Kernel("stem.conv + stem.act", "CaskConvolution", 2.0, ("stem.act",), ("stem.conv", "stem.act")),
        Kernel("own", "Layer", 9.0, (), ()),
    ]
