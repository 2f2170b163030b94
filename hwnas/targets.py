"""Targets, devices and fingerprints: what is measured, how it is reached, and which machine it was."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hwnas.errors import ConfigError, FingerprintMismatchError
from hwnas.files import data_home, digest, write_text

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_TARGET = re.compile(
    r"(?P<device>[A-Za-z0-9][A-Za-z0-9_.-]*)/(?P<runtime>[a-z0-9_]+)-(?P<precision>[a-z0-9]+)"
    r"(?:-t(?P<threads>[0-9]+))?(?:-b(?P<batch>[0-9]+))?"
)


@dataclass(frozen=True, order=True)
class Target:
    """Device + runtime + precision + threads + batch; tables, models and budgets belong to one.

    Attributes:
        device: Name of a device of the devices file, or ``local``.
        runtime: Software that executes the model, for example ``onnxruntime``.
        precision: One of ``fp32``, ``fp16``, ``bf16``, ``int8``.
        threads: Threads inside one inference.
        batch: Images per inference.
    """

    device: str
    runtime: str
    precision: str
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r} of target {self} must be one of {', '.join(PRECISIONS)}.")
        if self.threads < 1 or self.batch < 1:
            raise ConfigError(f"target {self}: threads and batch must be at least 1.")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``DEVICE/RUNTIME-PRECISION[-tN][-bN]``.

        Raises:
            ConfigError: The text has another form.
        """
        match = _TARGET.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"target {text!r} is not of the form DEVICE/RUNTIME-PRECISION[-tN][-bN], "
                "for example local/onnxruntime-fp32 or local/openvino-int8-t1-b1."
            )
        return cls(
            device=match["device"],
            runtime=match["runtime"],
            precision=match["precision"],
            threads=int(match["threads"] or 1),
            batch=int(match["batch"] or 1),
        )

    def __str__(self) -> str:
        return f"{self.device}/{self.runtime}-{self.precision}-t{self.threads}-b{self.batch}"

    @property
    def slug(self) -> str:
        """The target as a file or folder name."""
        return str(self).replace("/", "--")


def resolve_target(text: str, precision: str | None = None) -> Target:
    """Parse a target; ``--precision`` may repeat it but not contradict it.

    Raises:
        ConfigError: The text is malformed or the precision differs.
    """
    target = Target.parse(text)
    if precision is not None and precision != target.precision:
        raise ConfigError(
            f"--precision {precision} contradicts target {target}. Write {replace(target, precision=precision)} instead."
        )
    return target


@dataclass(frozen=True)
class Device:
    """A piece of hardware and the transport that reaches it.

    Attributes:
        name: What a person calls it.
        transport: ``local``, ``ssh``, ``command`` or ``simulated``.
        address: ``ssh`` destination, or empty.
        command: Command prefix (``command`` transport), for example ``["docker", "exec", "-i", "box"]``.
        python: Python interpreter on the device.
        options: Transport options by name, for example ``{"port": "2222", "identity_file": "key"}``.
    """

    name: str
    transport: str = "local"
    address: str = ""
    command: tuple[str, ...] = ()
    python: str = ""
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = ("local", "ssh", "command", "simulated")
        if self.transport not in known:
            raise ConfigError(f"device {self.name}: transport={self.transport!r} must be one of {', '.join(known)}.")
        if self.transport == "ssh" and not self.address:
            raise ConfigError(f"device {self.name}: transport ssh needs an address such as user@host.")
        if self.transport == "command" and not self.command:
            raise ConfigError(f"device {self.name}: transport command needs a command prefix.")


@dataclass(frozen=True)
class Fingerprint:
    """What machine and setting a number belongs to (design, 4).

    Attributes:
        identity: A mismatch refuses the table or model: CPU or GPU model, ISA flags, runtime major.minor, precision,
            threads, batch, protocol version.
        context: A mismatch warns: kernel, driver patch, governor, memory, container.
    """

    identity: dict[str, Any]
    context: dict[str, Any]

    @property
    def identity_digest(self) -> str:
        """The sha256 of the identity."""
        return digest(self.identity)

    @property
    def context_digest(self) -> str:
        """The sha256 of the context."""
        return digest(self.context)

    def differences(self, other: Fingerprint) -> dict[str, tuple[object, object]]:
        """Return identity keys whose values differ: key -> (own value, other's value)."""
        keys = sorted(self.identity.keys() | other.identity.keys())
        return {
            key: (self.identity.get(key), other.identity.get(key))
            for key in keys
            if self.identity.get(key) != other.identity.get(key)
        }

    def require_same(self, here: Fingerprint, what: str, mend: str) -> None:
        """Raise unless ``here`` has this identity.

        Raises:
            FingerprintMismatchError: An identity key differs.
        """
        differences = self.differences(here)
        if differences:
            raise FingerprintMismatchError(what, differences, mend)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"identity": self.identity, "context": self.context}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Fingerprint:
        """Read what :meth:`as_dict` wrote."""
        return cls(identity=dict(value["identity"]), context=dict(value["context"]))


def devices_path() -> Path:
    """Return the user's devices file."""
    return data_home() / "devices.yaml"


def load_devices(path: Path | None = None) -> dict[str, Device]:
    """Read the devices file; ``local`` and ``simulated-reference`` are always there.

    Raises:
        ConfigError: The file is not a mapping of devices.
    """
    path = path or devices_path()
    devices = {
        "local": Device("local"),
        "simulated-reference": Device("simulated-reference", transport="simulated"),
    }
    if not path.exists():
        return devices
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for name, entry in raw.items():
            entry = dict(entry)
            entry["command"] = tuple(entry.get("command", ()))
            devices[name] = Device(name=name, **entry)
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a devices file ({error}). Mend it, or add devices with: hwnas devices add."
        ) from error
    return devices


def save_device(device: Device, path: Path | None = None) -> None:
    """Add or replace one device in the devices file."""
    path = path or devices_path()
    devices = load_devices(path)
    devices[device.name] = device
    entries = {
        name: {
            key: value
            for key, value in {
                "transport": entry.transport,
                "address": entry.address,
                "command": list(entry.command),
                "python": entry.python,
                "options": entry.options,
            }.items()
            if value
        }
        for name, entry in devices.items()
        if name not in ("local", "simulated-reference")
    }
    write_text(path, yaml.safe_dump(entries, sort_keys=True))


def find_device(name: str, path: Path | None = None) -> Device:
    """Return the device called ``name``.

    Raises:
        ConfigError: No such device; the known ones are named.
    """
    devices = load_devices(path)
    if name not in devices:
        raise ConfigError(
            f"unknown device {name!r}; known: {', '.join(devices)}. Add it with: hwnas devices add {name} --ssh USER@HOST"
        )
    return devices[name]
