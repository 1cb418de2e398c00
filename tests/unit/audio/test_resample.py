"""Tones through the resampler: the pitch stays, the length fits, whatever the pieces are."""

import sys
from itertools import pairwise
from struct import unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.sound import loudness, pitch, tone
from voxtractl.audio.resample import Resampler
from voxtractl.errors import LocalProtocolError, SpeechUnavailable


def alike(one: bytes, other: bytes) -> bool:
    """The same sound but for soxr's dither, which is of the last bit."""
    samples = [unpack(f"<{len(pcm) // 2}h", pcm) for pcm in (one, other)]
    return all(abs(a - b) <= 3 for a, b in zip(*samples, strict=True))


@pytest.mark.parametrize(("source", "target"), [(8000, 16000), (16000, 8000), (22050, 8000), (24000, 48000)])
def test_a_tone_keeps_its_pitch_loudness_and_length(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    sound = tone(440, 1.0, source)
    frame = source // 50 * 2
    out = b"".join(resampler.feed(sound[at : at + frame]) for at in range(0, len(sound), frame))
    out += resampler.flush()
    assert len(out) == pytest.approx(target * 2, abs=4)
    middle = out[target // 2 :][:target]
    assert pitch(middle, target) == pytest.approx(440, abs=1)
    assert loudness(middle) == pytest.approx(loudness(sound), rel=0.02)


def test_what_a_telephone_cannot_carry_is_filtered_and_not_folded_down() -> None:
    resampler = Resampler(24000, 8000)
    out = resampler.feed(tone(6000, 0.5, 24000)) + resampler.flush()
    assert loudness(out[800:-800]) < 20


@given(st.lists(st.integers(0, 4000), max_size=8))
def test_pieces_may_end_anywhere(cuts: list[int]) -> None:
    sound = tone(300, 0.125, 16000)
    edges = [0, *sorted(cuts), len(sound)]
    resampler = Resampler(16000, 8000)
    pieces = [resampler.feed(sound[a:b]) for a, b in pairwise(edges)]
    whole = Resampler(16000, 8000)
    assert alike(b"".join(pieces) + resampler.flush(), whole.feed(sound) + whole.flush())


def test_after_a_flush_begins_another_sound() -> None:
    resampler = Resampler(16000, 8000)
    sound = tone(300, 0.1, 16000)
    first = resampler.feed(sound) + resampler.flush()
    assert alike(resampler.feed(sound) + resampler.flush(), first)


def test_equal_rates_pass_through_without_soxr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    resampler = Resampler(8000, 8000)
    assert resampler.feed(b"abc") == b"ab"
    assert resampler.feed(b"de") == b"cd"
    assert resampler.flush() == b""
    assert resampler.feed(b"fg") == b"fg"


def test_without_soxr_the_line_to_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(SpeechUnavailable, match="24000 Hz cannot be turned into 8000 Hz") as caught:
        Resampler(24000, 8000)
    assert caught.value.hint == "pip install 'voxtractl[speech]'"


@pytest.mark.parametrize("rates", [(0, 8000), (8000, -1), (1_000_000, 8000)])
def test_a_rate_that_is_none_is_refused(rates: tuple[int, int]) -> None:
    with pytest.raises(LocalProtocolError, match="no rate of sound"):
        Resampler(*rates)
