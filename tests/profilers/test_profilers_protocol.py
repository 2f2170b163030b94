from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas_profilers import protocol
from hwnas_profilers.protocol import MAGIC, Frame, ProtocolError, encode_frame, read_frame

HEADERS = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "payloads"),
    st.one_of(st.integers(), st.text(max_size=20), st.booleans(), st.lists(st.floats(-1e9, 1e9), max_size=4)),
    max_size=5,
)


def read(data: bytes, banner_limit: int = 0) -> Frame | None:
    return read_frame(io.BytesIO(data), banner_limit)


@settings(max_examples=60, deadline=None)
@given(HEADERS, st.lists(st.binary(max_size=200), max_size=4))
def test_frames_come_back_as_they_were(header: dict[str, Any], payloads: list[bytes]) -> None:
    stream = io.BytesIO(encode_frame(header, payloads) + encode_frame({"next": 1}))
    assert read_frame(stream) == Frame(header, tuple(payloads))
    assert read_frame(stream) == Frame({"next": 1})
    assert read_frame(stream) is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 8))
def test_a_banner_before_the_first_frame_is_skipped(banner: bytes, overlap: int) -> None:
    noise = (banner + MAGIC[:overlap]).replace(MAGIC, b"")
    frame = read(noise + encode_frame({"a": 1}, [b"xyz"]), banner_limit=4096)
    assert frame == Frame({"a": 1}, (b"xyz",))


def test_foreign_bytes_between_frames_are_refused() -> None:
    stream = io.BytesIO(encode_frame({"a": 1}) + b"printed by a runtime\n" + encode_frame({"a": 2}))
    assert read_frame(stream) == Frame({"a": 1})
    with pytest.raises(ProtocolError, match="not a frame"):
        read_frame(stream)


def test_a_banner_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not a frame"):
        read(b"x" * 5000, banner_limit=1000)
    with pytest.raises(ProtocolError, match="command not found"):
        read(b"sh: python3: command not found\n", banner_limit=1000)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_truncation_is_seen(data: st.DataObject) -> None:
    whole = encode_frame({"cmd": "put", "name": "model"}, [b"a" * 40, b"b" * 3])
    end = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(ProtocolError):
        read(whole[:end])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_flipped_bit_after_the_magic_is_seen(data: st.DataObject) -> None:
    whole = bytearray(encode_frame({"cmd": "put"}, [b"weights" * 5]))
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolError):
        read(bytes(whole))


def test_a_payload_with_another_sha256_is_refused() -> None:
    whole = encode_frame({}, [b"right"])
    with pytest.raises(ProtocolError, match="sha256"):
        read(whole.replace(b"right", b"wrong"))


def forged(text: bytes) -> bytes:
    return MAGIC + struct.pack(">II", len(text), zlib.crc32(text)) + text


def test_announced_sizes_beyond_the_limits_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ProtocolError, match="the limit"):
        read(MAGIC + struct.pack(">II", protocol.HEADER_LIMIT + 1, 0))
    with pytest.raises(ProtocolError, match="limits"):
        read(forged(b'{"payloads": [[%d, "00"]]}' % (protocol.PAYLOAD_LIMIT + 1)))
    with pytest.raises(ProtocolError, match="limits"):
        read(forged(b'{"payloads": [[-1, "00"]]}'))
    with pytest.raises(ProtocolError, match="limits"):
        read(forged(b'{"payloads": [' + b",".join([b'[0, ""]'] * (protocol.PAYLOADS_LIMIT + 1)) + b"]}"))


@pytest.mark.parametrize(
    "text", [b"not json", b"[1, 2]", b"{}", b'{"payloads": 3}', b'{"payloads": [["a"]]}', b"\xff\xfe"]
)
def test_headers_of_another_form_are_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="not what it should be"):
        read(forged(text))


def test_writing_refuses_too_many_payloads() -> None:
    with pytest.raises(ProtocolError, match="limits"):
        encode_frame({}, [b""] * (protocol.PAYLOADS_LIMIT + 1))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int64", "bool"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_arrays_come_back_bit_for_bit(dtype: str, shape: list[int], seed: int) -> None:
    values = (np.random.default_rng(seed).standard_normal(shape) * 50).astype(dtype)
    described, payloads = protocol.pack_arrays({"x": values, "y": values.T})
    found = protocol.unpack_arrays(described, payloads)
    assert list(found) == ["x", "y"]
    for name, wanted in (("x", values), ("y", values.T)):
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)


def test_arrays_that_do_not_fit_their_description_are_refused() -> None:
    described, payloads = protocol.pack_arrays({"x": np.zeros(4, np.float32)})
    with pytest.raises(ProtocolError, match="does not fit"):
        protocol.unpack_arrays([{**described[0], "shape": [5]}], payloads)
    with pytest.raises(ProtocolError, match="dtype"):
        protocol.unpack_arrays([{**described[0], "dtype": "object"}], payloads)
    with pytest.raises(ProtocolError, match="described"):
        protocol.unpack_arrays(described, [])
    with pytest.raises(ProtocolError, match="dtype"):
        protocol.pack_arrays({"x": np.zeros(2, dtype=object)})
