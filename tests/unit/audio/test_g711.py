"""The codecs against every sample and code as a real Asterisk converts them (``tests/tools/captured.py``)."""

import gzip
from collections.abc import Callable
from struct import pack
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.captured import CAPTURED
from voxtractl.audio import g711
from voxtractl.errors import LocalProtocolError

Codec = Callable[[bytes], bytes]
EVERY_SAMPLE: Final = pack("<65536H", *range(65536))


def captured(name: str) -> bytes:
    return gzip.decompress((CAPTURED / f"{name}.gz").read_bytes())


@pytest.mark.parametrize(("encode", "name"), [(g711.pcm_to_ulaw, "all.ulaw"), (g711.pcm_to_alaw, "all.alaw")])
def test_every_sample_becomes_what_asterisk_makes_of_it(encode: Codec, name: str) -> None:
    assert encode(EVERY_SAMPLE) == captured(name)


@pytest.mark.parametrize(
    ("decode", "name"), [(g711.ulaw_to_pcm, "codes-ulaw.slin"), (g711.alaw_to_pcm, "codes-alaw.slin")]
)
def test_every_code_becomes_what_asterisk_makes_of_it(decode: Codec, name: str) -> None:
    assert decode(bytes(range(256))) == captured(name)


@given(st.binary(max_size=400))
def test_a_code_survives_the_way_to_pcm_and_back(codes: bytes) -> None:
    assert g711.pcm_to_alaw(g711.alaw_to_pcm(codes)) == codes
    # µ-law has two zeros, 0xFF and 0x7F; both come back as one
    assert g711.pcm_to_ulaw(g711.ulaw_to_pcm(codes)) == codes.replace(b"\x7f", b"\xff")


@pytest.mark.parametrize("encode", [g711.pcm_to_ulaw, g711.pcm_to_alaw])
def test_half_a_sample_is_refused(encode: Codec) -> None:
    with pytest.raises(LocalProtocolError, match="3 bytes"):
        encode(b"abc")
