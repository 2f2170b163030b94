from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import ConfigError, FingerprintMismatchError
from hwnas.targets import PRECISIONS, Device, Fingerprint, Target, load_devices, resolve_target, save_device


@given(
    device=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True),
    runtime=st.sampled_from(["onnxruntime", "openvino", "tensorrt_rtx"]),
    precision=st.sampled_from(PRECISIONS),
    threads=st.integers(1, 64),
    batch=st.integers(1, 256),
)
def test_a_target_reads_what_it_writes(device: str, runtime: str, precision: str, threads: int, batch: int) -> None:
    target = Target(device, runtime, precision, threads, batch)
    assert Target.parse(str(target)) == target
    assert "/" not in target.slug


def test_threads_and_batch_default_to_one() -> None:
    assert Target.parse("local/onnxruntime-fp32") == Target("local", "onnxruntime", "fp32", 1, 1)
    assert str(Target.parse("pi5/litert-int8-t4")) == "pi5/litert-int8-t4-b1"


@pytest.mark.parametrize(
    "text", ["", "local", "local/onnxruntime", "local/onnxruntime-fp8", "a/b-fp32-t0", "a b/c-fp32"]
)
def test_a_malformed_target_says_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"target .*\b(form|must)\b"):
        Target.parse(text)


def test_precision_must_agree_with_the_target() -> None:
    assert resolve_target("local/openvino-int8", "int8").precision == "int8"
    with pytest.raises(ConfigError, match="Write local/openvino-fp32-t1-b1"):
        resolve_target("local/openvino-int8", "fp32")


def test_devices_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    device = Device("pi5", transport="ssh", address="pi@board", options={"port": "2222"})
    save_device(device, path)
    assert load_devices(path)["pi5"] == device
    assert load_devices(path)["local"].transport == "local"


@pytest.mark.parametrize(
    "text", ["pi5: {transport: carrier-pigeon}", "pi5: {speed: 3}", "- a", "pi5: {transport: ssh}", ":\n - ["]
)
def test_a_bad_devices_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="device"):
        load_devices(path)


def test_identity_mismatch_names_the_key() -> None:
    mine = Fingerprint({"cpu_model": "A", "threads": 1}, {"kernel": "6.1"})
    other = Fingerprint({"cpu_model": "B", "threads": 1}, {"kernel": "6.2"})
    mine.require_same(Fingerprint(mine.identity, {"kernel": "6.9"}), "table", "")
    with pytest.raises(FingerprintMismatchError, match="cpu_model: stored 'A', here 'B'"):
        mine.require_same(other, "table", "Profile anew.")
    assert Fingerprint.from_dict(mine.as_dict()) == mine
