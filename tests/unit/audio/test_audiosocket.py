"""The codec against bytes of a real Asterisk (``tests/tools/captured.py``), and against broken ones."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from struct import unpack
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.captured import CAPTURED, LEG_ID
from tests.tools.sound import pitch
from voxtractl.audio.audiosocket import RATES, Decoder, Frame, Kind, encode, frame_bytes
from voxtractl.errors import LocalProtocolError, RemoteProtocolError

# Numbers of the captured files: the type of their sound and the bytes of 20 ms, counted by hand.
FILES: Final = {"slin": (0x10, 320), "slin16": (0x12, 640), "slin24": (0x13, 960), "slin48": (0x16, 1920)}
UUID_FRAME: Final = b"\x01\x00\x10" + LEG_ID.bytes


def captured(name: str) -> bytes:
    return Path(CAPTURED, f"{name}.audiosocket").read_bytes()


def all_of(decoder: Decoder, *pieces: bytes) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def named() -> Decoder:
    """A decoder that has its UUID."""
    decoder = Decoder()
    decoder.feed(UUID_FRAME)
    return decoder


@pytest.mark.parametrize("name", FILES)
def test_reads_what_asterisk_sent(name: str) -> None:
    kind, size = FILES[name]
    frames = Decoder().feed(captured(name))
    assert frames[0] == (0x01, LEG_ID.bytes)
    assert [frame.payload for frame in frames[1:6]] == [b"1", b"2", b"*", b"#", b"D"]
    assert {frame.kind for frame in frames[1:6]} == {0x03}
    assert [(frame.kind, len(frame.payload)) for frame in frames[6:]] == [(kind, size)] * 5
    sound = b"".join(frame.payload for frame in frames[7:])  # the first is the end of the last key
    assert pitch(sound, size * 25) == pytest.approx(1004, abs=10)


@pytest.mark.parametrize("name", FILES)
def test_any_cut_in_two_reads_the_same(name: str) -> None:
    whole = captured(name)
    frames = Decoder().feed(whole)
    for at in range(len(whole) + 1):
        decoder = Decoder()
        assert all_of(decoder, whole[:at], whole[at:]) == frames
        assert decoder.waiting == 0


def test_byte_by_byte_reads_the_same() -> None:
    whole = captured("slin")
    assert all_of(Decoder(), *(bytes([byte]) for byte in whole)) == Decoder().feed(whole)


@given(st.lists(st.integers(0, 1800), max_size=12))
def test_any_cuts_read_the_same(cuts: list[int]) -> None:
    whole = captured("slin")
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges)]
    assert all_of(Decoder(), *pieces) == Decoder().feed(whole)


SOUNDS: Final = st.tuples(
    st.sampled_from(sorted(RATES.values())), st.integers(1, 400).map(lambda count: bytes(2 * count))
)


@given(st.lists(SOUNDS, max_size=6))
def test_what_is_encoded_is_read_back(sounds: list[tuple[Kind, bytes]]) -> None:
    wire = UUID_FRAME + b"".join(encode(kind, payload) for kind, payload in sounds)
    assert Decoder().feed(wire)[1:] == sounds


@given(st.binary(min_size=1, max_size=64), st.integers(0, 64))
def test_garbage_is_refused_or_waited_for_alike_however_it_is_cut(garbage: bytes, cut: int) -> None:
    def outcome(*pieces: bytes) -> tuple[list[Frame], int, str]:
        decoder = Decoder()
        frames: list[Frame] = []
        with suppress(RemoteProtocolError):
            for piece in pieces:
                frames += decoder.feed(piece)
        return frames, decoder.waiting, str(decoder.error)

    wire = UUID_FRAME + garbage
    assert outcome(garbage) == outcome(garbage[:cut], garbage[cut:])
    assert outcome(wire) == outcome(wire[:cut], wire[cut:])


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (b"\x10\x00\x02ab", "begins with type 0x10"),
        (b"GET / HTTP/1.1\r\n", "0x47 is no type"),
        (b"\x01\x00\x0f" + bytes(15), "has 15 bytes, not 16"),
        (UUID_FRAME + UUID_FRAME, "twice"),
        (UUID_FRAME + b"\x02\x00\x00", "0x02 is no type"),
        (UUID_FRAME + b"\x03\x00\x00", "has 0 bytes, not 1"),
        (UUID_FRAME + b"\x03\x00\x0212", "has 2 bytes, not 1"),
        (UUID_FRAME + b"\x00\x00\x01x", "has 1 bytes, not 0"),
        (UUID_FRAME + b"\x10\xff\xff", "has 65535 bytes, not 0 to 16000"),
        (UUID_FRAME + b"\x10\x3e\x82", "has 16002 bytes, not 0 to 16000"),
        (UUID_FRAME + b"\x18\xff\xff", "has 65535 bytes, not 0 to 65534"),
        (UUID_FRAME + b"\x10\x00\x03abc", "half a sample"),
        (UUID_FRAME + b"\x00\x00\x00\x10\x00\x02ab", "follows the hangup"),
    ],
)
def test_bytes_that_break_the_rules_are_refused_and_stay_refused(wire: bytes, says: str) -> None:
    decoder = Decoder()
    with pytest.raises(RemoteProtocolError, match=says) as first:
        all_of(decoder, wire, b"")  # frames from before the error come first
    with pytest.raises(RemoteProtocolError) as second:
        decoder.feed(b"\x00\x00\x00")
    assert decoder.error is second.value is first.value


def test_a_long_frame_is_refused_by_its_header_alone() -> None:
    with pytest.raises(RemoteProtocolError):
        named().feed(b"\x12\xff\xff")


def test_a_second_of_sound_at_once_is_taken() -> None:
    assert named().feed(b"\x10\x3e\x80" + bytes(16000)) == [(0x10, bytes(16000))]


def test_asterisk_may_say_nothing_hang_up_or_report_an_error() -> None:
    decoder = named()
    assert decoder.feed(b"\x10\x00\x00\xff\x00\x01\x04\x00\x00\x00") == [
        (0x10, b""),
        (0xFF, b"\x04"),
        (0, b""),
    ]


def test_the_wire_of_what_we_send() -> None:
    assert encode(Kind.HANGUP) == b"\x00\x00\x00"
    assert encode(Kind.SLIN16, b"\x01\x02\x03\x04") == b"\x12\x00\x04\x01\x02\x03\x04"
    assert encode(Kind.SLIN192, bytes(65534))[:3] == b"\x18\xff\xfe"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.SLIN, b""),
        (Kind.SLIN, b"abc"),
        (Kind.SLIN48, bytes(65536)),
        (Kind.HANGUP, b"x"),
        (Kind.UUID, bytes(16)),
        (Kind.DTMF, b"1"),
        (Kind.ERROR, b""),
    ],
)
def test_what_would_end_the_call_is_not_sent(kind: Kind, payload: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode(kind, payload)


@pytest.mark.parametrize("rate", RATES)
def test_a_frame_is_twenty_milliseconds(rate: int) -> None:
    assert frame_bytes(rate) == rate * 2 / 50
    assert unpack(">BH", encode(RATES[rate], bytes(frame_bytes(rate)))[:3]) == (RATES[rate], rate // 25)


def test_a_rate_without_a_type_is_refused_with_those_there_are() -> None:
    with pytest.raises(LocalProtocolError, match="11025") as caught:
        frame_bytes(11025)
    assert "8000, 12000, 16000" in str(caught.value.hint)
