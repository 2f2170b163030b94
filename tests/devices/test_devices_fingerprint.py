from __future__ import annotations

from dataclasses import replace

import pytest

from hwnas.devices.fingerprint import int8_weight_bits, target_fingerprint
from hwnas.devices.models import RuntimeStatus, WorkerInfo
from hwnas.devices.session import open_session
from hwnas.targets import Device, Target


@pytest.mark.parametrize(
    ("arch", "isa", "bits"),
    [
        ("x86_64", ["avx", "avx2", "fma"], 7),
        ("AMD64", [], 7),
        ("amd64", ["avx2"], 7),
        ("x86_64", ["avx512vnni"], 8),
        ("x86_64", ["avx2", "avx512f", "avx512bw"], 7),
        ("x86_64", ["avx2", "avx_vnni"], 8),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], 8),
        ("aarch64", [], 8),
        ("simulated", [], 8),
    ],
)
def test_weights_lose_a_bit_where_products_are_added_in_16_bits(arch: str, isa: list[str], bits: int) -> None:
    assert int8_weight_bits({"arch": arch, "isa": isa, "cpu_model": "any"}) == bits


def test_this_machine_says_what_the_rule_needs() -> None:
    with open_session(Device("local")) as session:
        identity = session.hello().identity
    assert {"arch", "isa"} <= identity.keys()
    dot_products = any("vnni" in flag or "amx" in flag for flag in identity["isa"])
    assert int8_weight_bits(identity) == (7 if identity["arch"] == "x86_64" and not dot_products else 8)


def test_a_gpu_and_its_driver_belong_to_the_fingerprint_of_its_runtimes_only() -> None:
    gpu = RuntimeStatus(
        True, "10.9", "", (), {"gpu_model": "NVIDIA L4", "gpu_capability": "sm89"}, {"gpu_driver": "13.0"}
    )
    runtimes = {"tensorrt": gpu, "onnxruntime": RuntimeStatus(True, "1.31")}
    info = WorkerInfo(1, {"cpu_model": "some CPU"}, {"kernel": "6"}, runtimes)
    found = target_fingerprint(info, Target.parse("box/tensorrt-fp16"), "10.9.0")
    assert found.identity["gpu_model"] == "NVIDIA L4"
    assert found.context["gpu_driver"] == "13.0"
    other = WorkerInfo(1, info.identity, info.context, {"tensorrt": replace(gpu, identity={"gpu_model": "NVIDIA T4"})})
    assert "gpu_model" in found.differences(target_fingerprint(other, Target.parse("box/tensorrt-fp16"), "10.9.0"))
    assert "gpu_model" not in target_fingerprint(info, Target.parse("box/onnxruntime-fp32"), "1.31.1").identity
