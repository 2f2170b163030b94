"""Fingerprint of a target: the machine's identity with the runtime and the setting in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwnas.devices.models import RuntimeStatus, WorkerInfo
from hwnas.targets import Fingerprint, Target

X86 = ("x86_64", "amd64", "x86", "i386", "i486", "i586", "i686")
DOT_PRODUCTS = frozenset({"avx_vnni", "avx512_vnni", "avx512vnni", "amx_int8"})
"""x86 instructions that add products of bytes in 32 bits."""


def int8_weight_bits(identity: Mapping[str, Any]) -> int:
    """Return how many bits int8 weights may use on a machine: 7 on x86 without (known) 8-bit dot products, else 8.

    There, runtimes multiply with an instruction that adds two products of unsigned and signed bytes in 16 bits and
    saturates: 2 * 255 * 127 does not fit, 2 * 255 * 64 does. The answers are wrong, not slow. Sources: Intel 64 and IA-32
    manual, ``PMADDUBSW``; ONNX Runtime, "Quantize ONNX models", on ``reduce_range``; NNCF, ``overflow_fix``.

    Args:
        identity: Of the machine: ``arch`` and ``isa``, as the worker says.
    """
    saturates = str(identity.get("arch")).lower() in X86 and not DOT_PRODUCTS & set(identity.get("isa") or ())
    return 7 if saturates else 8


def major_minor(version: str) -> str:
    """Return ``1.31`` of ``1.31.1``; the whole text if it has no two parts."""
    return ".".join(version.split(".")[:2])


def target_fingerprint(info: WorkerInfo, target: Target, runtime_version: str) -> Fingerprint:
    """Return the fingerprint of what is measured for ``target`` on the machine that ``info`` describes.

    Args:
        info: What the worker said of itself.
        target: Runtime, precision, threads and batch go into the identity, the device's name does not.
        runtime_version: Full version of the runtime on the device.
    """
    status = info.runtimes.get(target.runtime, RuntimeStatus(available=False))
    identity = {
        **info.identity,
        **status.identity,
        "protocol": info.protocol,
        "runtime": target.runtime,
        "runtime_version": major_minor(runtime_version),
        "precision": target.precision,
        "threads": target.threads,
        "batch": target.batch,
    }
    return Fingerprint(
        identity=identity, context={**info.context, **status.context, "runtime_version": runtime_version}
    )
