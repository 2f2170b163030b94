"""Frames: one JSON header and binary payloads, over any byte stream.

A frame is ``MAGIC``, the header's length and CRC-32 (two big-endian 32-bit numbers), the header as UTF-8 JSON, then
the payloads one after another. The header's key ``payloads`` lists ``[size, sha256]`` of each. Whatever a login shell
prints before the first frame is skipped; nothing may stand between later frames.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Dict, List, Optional, Sequence, Tuple

import numpy as np

VERSION = 1
"""Version of the frames and of the measuring protocol; part of every fingerprint's identity."""

MAGIC = b"\x00\xf5HWNAS1"
BANNER_LIMIT = 64 * 1024
HEADER_LIMIT = 32 * 1024 * 1024
PAYLOAD_LIMIT = 2 * 1024 * 1024 * 1024
PAYLOADS_LIMIT = 256
_LENGTHS = struct.Struct(">II")
_DTYPES = tuple("bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64".split())


class ProtocolError(Exception):
    """The stream holds something that is not a whole, intact frame."""


class Failure(Exception):
    """A request that did not work, for a reason that is data.

    Args:
        kind: ``crashed``, ``timeout``, ``unsupported_op``, ``out_of_memory``, ``wrong_output``, ``load_failed`` or
            ``fallback``.
        detail: One sentence for a person.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Frame:
    """One message: its JSON object and its payloads in order."""

    header: Dict[str, Any]
    payloads: Tuple[bytes, ...] = field(default=())


def encode_frame(header: Dict[str, Any], payloads: Sequence[bytes] = ()) -> bytes:
    """Return the bytes of one frame.

    Raises:
        ProtocolError: Header or payloads exceed the limits.
    """
    listed = [[len(payload), hashlib.sha256(payload).hexdigest()] for payload in payloads]
    text = json.dumps(dict(header, payloads=listed), allow_nan=False).encode()
    if len(text) > HEADER_LIMIT or len(payloads) > PAYLOADS_LIMIT:
        raise ProtocolError(f"a frame of {len(text)} header bytes and {len(payloads)} payloads exceeds the limits")
    if any(len(payload) > PAYLOAD_LIMIT for payload in payloads):
        raise ProtocolError(f"a payload exceeds {PAYLOAD_LIMIT} bytes")
    return b"".join([MAGIC, _LENGTHS.pack(len(text), zlib.crc32(text)), text, *payloads])


def _read_exactly(stream: BinaryIO, size: int, what: str) -> bytes:
    data = stream.read(size)
    if data is None or len(data) != size:
        raise ProtocolError(f"the stream ended inside {what}: {len(data or b'')} of {size} bytes came")
    return data


def _skip_to_magic(stream: BinaryIO, banner_limit: int) -> bool:
    """Read past a banner and the magic; False at a clean end of the stream.

    Raises:
        ProtocolError: More than ``banner_limit`` foreign bytes, or the stream ended inside them.
    """
    window = b""
    foreign = bytearray()
    while True:
        byte = stream.read(1)
        if not byte:
            foreign += window
            if foreign:
                raise ProtocolError(f"the stream ended without a frame, after {bytes(foreign[-200:])!r}")
            return False
        window += byte
        if window == MAGIC:
            return True
        while window and not MAGIC.startswith(window):
            foreign += window[:1]
            window = window[1:]
        if len(foreign) > banner_limit:
            raise ProtocolError(f"{len(foreign)} bytes that are not a frame came, the last: {bytes(foreign[-80:])!r}")


def _check_header(text: bytes) -> Tuple[Dict[str, Any], List[Tuple[int, str]]]:
    try:
        header = json.loads(text.decode("utf-8"))
        listed = [(int(size), str(digest)) for size, digest in header.pop("payloads")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"the header of a frame is not what it should be ({error!r})") from error
    if len(listed) > PAYLOADS_LIMIT or any(not 0 <= size <= PAYLOAD_LIMIT for size, _ in listed):
        raise ProtocolError(f"a frame announces {len(listed)} payloads beyond the limits")
    return header, listed


def read_frame(stream: BinaryIO, banner_limit: int = 0) -> Optional[Frame]:
    """Read one frame; None when the stream ends cleanly before it.

    Args:
        stream: A blocking binary stream.
        banner_limit: Foreign bytes tolerated before the frame (a login banner); 0 after the first frame.

    Raises:
        ProtocolError: Foreign bytes, a truncated frame, a wrong checksum or sizes beyond the limits.
    """
    if not _skip_to_magic(stream, banner_limit):
        return None
    size, crc = _LENGTHS.unpack(_read_exactly(stream, _LENGTHS.size, "a frame's lengths"))
    if size > HEADER_LIMIT:
        raise ProtocolError(f"a frame announces a header of {size} bytes, the limit is {HEADER_LIMIT}")
    text = _read_exactly(stream, size, "a frame's header")
    if zlib.crc32(text) != crc:
        raise ProtocolError("the header of a frame does not match its checksum")
    header, listed = _check_header(text)
    payloads = []
    for number, (length, digest) in enumerate(listed):
        payload = _read_exactly(stream, length, f"payload {number}")
        if hashlib.sha256(payload).hexdigest() != digest:
            raise ProtocolError(f"payload {number} does not match its sha256")
        payloads.append(payload)
    return Frame(header, tuple(payloads))


def pack_arrays(arrays: Dict[str, np.ndarray]) -> Tuple[List[Dict[str, Any]], List[bytes]]:
    """Return the description (JSON) and the payloads of named arrays."""
    described = []
    payloads = []
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise ProtocolError(f"array {name!r} has dtype {array.dtype.name}; it must be one of {', '.join(_DTYPES)}")
        described.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
        payloads.append(np.ascontiguousarray(array).tobytes())
    return described, payloads


def unpack_arrays(described: Sequence[Dict[str, Any]], payloads: Sequence[bytes]) -> Dict[str, np.ndarray]:
    """Return the named arrays that :func:`pack_arrays` described.

    Raises:
        ProtocolError: Description and payloads do not fit each other.
    """
    if len(described) != len(payloads):
        raise ProtocolError(f"{len(described)} arrays are described, {len(payloads)} came")
    arrays = {}
    for entry, payload in zip(described, payloads):
        if entry["dtype"] not in _DTYPES:
            raise ProtocolError(f"dtype {entry['dtype']!r} is not one of {', '.join(_DTYPES)}")
        try:
            flat = np.frombuffer(payload, dtype=np.dtype(entry["dtype"]))
            arrays[str(entry["name"])] = flat.reshape(tuple(int(size) for size in entry["shape"])).copy()
        except ValueError as error:
            raise ProtocolError(f"array {entry['name']!r} does not fit its description ({error})") from error
    return arrays
