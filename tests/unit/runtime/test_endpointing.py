"""Where speech begins and ends: a synthesiser's speech, noise, and every way to cut the same sound."""

import math
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.spoken import UNDERSTOOD, noise, quiet, spoken
from voxtractl.runtime.endpointing import Endpointer, SpeechBegan, SpeechEnded, level

RATES = (8000, 16000, 24000, 48000)
TOLERANCE = 0.16  # seconds: a voice fades in and out, and its edges lie below the threshold


def mixed(one: bytes, other: bytes) -> bytes:
    count = min(len(one), len(other)) // 2
    pairs = zip(
        struct.unpack(f"<{count}h", one[: 2 * count]),
        struct.unpack(f"<{count}h", other[: 2 * count]),
        strict=True,
    )
    return struct.pack(f"<{count}h", *(max(min(a + b, 32767), -32768) for a, b in pairs))


def tone(seconds: float, dbfs: float, *, rate: int = 8000, hertz: float = 440.0, offset: int = 0) -> bytes:
    top = 32768 * 10 ** (dbfs / 20) * math.sqrt(2)
    count = round(seconds * rate)
    return struct.pack(
        f"<{count}h", *(round(top * math.sin(2 * math.pi * hertz * n / rate)) + offset for n in range(count))
    )


def heard(sound: bytes, rate: int = 8000, **options: float) -> list[SpeechBegan | SpeechEnded]:
    ears = Endpointer(rate, **options)
    return ears.feed(sound) + ears.finish()


# --- levels -----------------------------------------------------------------------------------------------


def test_a_level_is_that_of_the_tone() -> None:
    for dbfs in (-10.0, -26.0, -45.0):
        assert level(tone(0.1, dbfs)) == pytest.approx(dbfs, abs=0.1)


def test_digital_silence_and_a_constant_offset_are_silent() -> None:
    assert level(quiet(0.02)) == -96.0
    assert level(struct.pack("<160h", *[12000] * 160)) == -96.0


def test_the_loudest_sound_is_full() -> None:
    assert level(struct.pack("<160h", *[-32768, 32767] * 80)) == pytest.approx(0.0, abs=0.01)


# --- speech -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("text", UNDERSTOOD)
def test_a_sentence_in_silence_is_one_speech(text: str, rate: int) -> None:
    voice = spoken(text, rate)
    length = len(voice) / 2 / rate
    events = heard(quiet(1.0, rate) + voice + quiet(1.5, rate), rate)
    began, ended = events
    assert isinstance(began, SpeechBegan)
    assert isinstance(ended, SpeechEnded)
    assert ended.start == began.start == pytest.approx(1.0, abs=TOLERANCE)
    assert ended.end == pytest.approx(1.0 + length, abs=2 * TOLERANCE)


@pytest.mark.parametrize("dbfs", [-60.0, -50.0, -42.0])
def test_a_sentence_in_noise_is_one_speech(dbfs: float) -> None:
    voice = spoken(UNDERSTOOD[0])
    length = len(voice) / 16000
    sound = quiet(1.0) + voice + quiet(1.5)
    began, ended = heard(mixed(sound, noise(len(sound) / 16000, dbfs=dbfs)))
    assert isinstance(ended, SpeechEnded)
    assert began.start == pytest.approx(1.0, abs=TOLERANCE)
    assert ended.end == pytest.approx(1.0 + length, abs=2 * TOLERANCE)


def test_one_may_speak_with_the_first_sample() -> None:
    voice = spoken(UNDERSTOOD[1])
    began = heard(voice + quiet(1.0))[0]
    assert began.start == pytest.approx(0.0, abs=TOLERANCE)


def test_two_sentences_are_two_after_a_long_pause_and_one_after_a_short() -> None:
    one, two = spoken(UNDERSTOOD[1]), spoken(UNDERSTOOD[2])
    assert len(heard(one + quiet(1.5) + two + quiet(1.0))) == 4
    assert len(heard(one + quiet(0.3) + two + quiet(1.0))) == 2
    assert len(heard(one + quiet(0.8) + two + quiet(1.0), silence=0.5)) == 4


def test_speech_that_goes_on_is_only_ended_by_finish() -> None:
    ears = Endpointer(8000)
    voice = spoken(UNDERSTOOD[0])
    (began,) = ears.feed(voice)
    during = ears.speaking
    (ended,) = ears.finish()
    assert isinstance(ended, SpeechEnded)
    assert ended.start == began.start
    assert ended.end <= ears.seconds
    assert (during, ears.speaking) == (True, False)
    assert ears.finish() == []


# --- what is no speech ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sound",
    [
        quiet(5.0),
        noise(5.0, dbfs=-55.0),
        quiet(1.0) + tone(0.04, -10.0) + quiet(2.0),
        struct.pack("<80000h", *[9000] * 80000),
        b"",
        b"\0",
    ],
    ids=["silence", "line noise", "a click", "a constant offset", "nothing", "half a sample"],
)
def test_no_speech(sound: bytes) -> None:
    assert heard(sound) == []


def test_a_line_that_opens_with_noise_after_digital_silence_does_not_speak() -> None:
    assert heard(quiet(10.0) + noise(5.0, dbfs=-45.0)) == []


def test_a_dial_tone_is_no_speech_for_long() -> None:
    _, ended = heard(quiet(1.0) + tone(20.0, -20.0))
    assert isinstance(ended, SpeechEnded)
    assert ended.end < 1.0 + 3.1  # the floor's memory


def test_the_floor_follows_a_line_that_becomes_noisy() -> None:
    ears = Endpointer(8000)
    ears.feed(noise(4.0, dbfs=-60.0) + noise(4.0, dbfs=-40.0, seed=2))
    assert ears.floor == pytest.approx(-41.0, abs=1.5)
    assert not ears.speaking


# --- properties -------------------------------------------------------------------------------------------

SCENE = (
    noise(0.7, dbfs=-52.0) + spoken(UNDERSTOOD[1]) + noise(1.2, dbfs=-52.0, seed=2) + spoken(UNDERSTOOD[2])
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(SCENE)), max_size=40))
def test_any_split_of_the_same_sound_gives_the_same_events(cuts: list[int]) -> None:
    whole = Endpointer(8000)
    expected = whole.feed(SCENE)
    ears = Endpointer(8000)
    edges = [0, *sorted(cuts), len(SCENE)]
    told = [event for at, to in pairwise(edges) for event in ears.feed(SCENE[at:to])]
    assert told == expected
    assert len(expected) == 3
    assert ears.finish() == whole.finish()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-70, -6), st.integers(1, 40)), max_size=12), st.integers(0, 2**32))
def test_events_come_in_turn_and_their_times_grow(parts: list[tuple[int, int]], seed: int) -> None:
    chance = random.Random(seed)
    sound = b"".join(noise(0.02 * frames, dbfs=dbfs, seed=chance.randrange(1000)) for dbfs, frames in parts)
    last = 0.0
    speaking: float | None = None
    for event in heard(sound, silence=0.1):
        if isinstance(event, SpeechBegan):
            assert speaking is None
            assert event.start >= last
            speaking = last = event.start
        else:
            assert event.start == speaking
            assert last < event.end <= len(sound) / 16000 + 1e-9
            speaking, last = None, event.end
    assert speaking is None
