"""Fingerprint of a target: the machine's identity with the runtime and the setting in it."""

from __future__ import annotations

from hwnas.devices.models import WorkerInfo
from hwnas.targets import Fingerprint, Target


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
    identity = {
        **info.identity,
        "protocol": info.protocol,
        "runtime": target.runtime,
        "runtime_version": major_minor(runtime_version),
        "precision": target.precision,
        "threads": target.threads,
        "batch": target.batch,
    }
    return Fingerprint(identity=identity, context={**info.context, "runtime_version": runtime_version})
