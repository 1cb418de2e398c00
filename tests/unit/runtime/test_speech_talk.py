"""Prompts and answers over a leg in memory, with a provider that the test holds in its hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.spoken import UNDERSTOOD, noise, quiet, spoken
from voxtractl.audio.leg import MemoryLeg
from voxtractl.errors import CallEnded, SpeechUnavailable
from voxtractl.runtime.speech import Said, SpeechToText, TextToSpeech, Transcript, VoiceBargeIn, hear, say
from voxtractl.runtime.speech.talk import LONGEST, sentences

FAST = 40.0  # times real speed
FRAME = 320  # bytes of 20 ms at 8 kHz


class Voice:
    """Speaks each text as so many seconds of samples that all are ``len(text)``."""

    def __init__(self, rate: int = 8000, *, seconds: float = 0.5, breaks: bool = False) -> None:
        self.rate = rate
        self.asked: list[str] = []
        self.open = 0  # generators that were begun and not ended
        self.before: Callable[[], AsyncIterator[None]] | None = None
        self._seconds, self._breaks = seconds, breaks

    async def synthesize(self, text: str) -> AsyncIterator[bytes]:
        self.asked.append(text)
        self.open += 1
        try:
            for _ in range(round(self._seconds * 10)):
                yield len(text).to_bytes(2, "little") * (self.rate // 10)
                await asyncio.sleep(0)
                if self._breaks:
                    raise SpeechUnavailable("the connection failed")
        finally:
            self.open -= 1


class Ear:
    """Understands ``words``, and keeps what it heard."""

    def __init__(self, words: Transcript | None = None) -> None:
        self.words = words or Transcript("yes please", confidence=0.9, language="en")
        self.heard: list[tuple[bytes, int]] = []

    async def transcribe(self, pcm: bytes, rate: int) -> Transcript:
        self.heard.append((pcm, rate))
        return self.words


def frames(pcm: bytes) -> list[bytes]:
    return [pcm[at : at + FRAME] for at in range(0, len(pcm), FRAME)]


def said_to(leg: MemoryLeg, pcm: bytes) -> None:
    """The far side says this."""
    for frame in frames(pcm):
        leg.say(frame)


async def tasks_have_ended() -> bool:
    await asyncio.sleep(0)
    return asyncio.all_tasks() == {asyncio.current_task()}


def test_the_test_providers_are_providers() -> None:
    assert isinstance(Voice(), TextToSpeech)
    assert isinstance(Ear(), SpeechToText)
    assert not isinstance(Ear(), TextToSpeech)


# --- sentences --------------------------------------------------------------------------------------------


def test_the_first_sentence_is_asked_for_alone_and_the_rest_together() -> None:
    text = "Welcome to Acme! How can we help you? Press one for sales. Press two for support."
    assert list(sentences(text)) == [
        "Welcome to Acme!",
        "How can we help you? Press one for sales. Press two for support.",
    ]


def test_titles_and_hours_do_not_end_a_sentence() -> None:
    assert list(sentences("Dr. Smith is in at 9 a.m. today. Please wait.")) == [
        "Dr. Smith is in at 9 a.m. today.",
        "Please wait.",
    ]


def test_sentences_of_other_scripts_end_too() -> None:
    assert list(sentences("您好。请稍等。")) == ["您好。", "请稍等。"]
    assert list(sentences("« Bonjour ! » Bienvenue chez nous…\nMerci.")) == [
        "« Bonjour !",
        "» Bienvenue chez nous… Merci.",
    ]


def test_no_text_is_no_sentence() -> None:
    assert list(sentences(" \n ")) == []


@given(st.text(st.characters(categories=("L", "N", "P", "Zs", "Cc")), max_size=1500))
def test_no_letter_is_lost_and_no_part_too_long(text: str) -> None:
    parts = list(sentences(text))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part.strip() and len(part) <= LONGEST for part in parts)


@given(st.lists(st.integers(1, 700), max_size=5))
def test_a_text_without_any_stop_is_cut(words: list[int]) -> None:
    text = " ".join("x" * count for count in words)
    parts = list(sentences(text))
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    assert all(len(part) <= LONGEST for part in parts)


# --- saying -----------------------------------------------------------------------------------------------


async def test_say_ends_when_all_was_played() -> None:
    async with MemoryLeg(8000, speed=FAST) as leg:
        voice = Voice(seconds=1.5)
        said = await say(leg, voice, "Hello there.")
        assert said == Said("Hello there.", 1.5, interrupted=False)
        assert bytes(leg.played) == (12).to_bytes(2, "little") * 12000
        assert leg.queued == 0
        assert voice.open == 0
    assert await tasks_have_ended()


async def test_say_plays_before_the_rest_is_made() -> None:
    heard = asyncio.Event()

    class Waits(Voice):
        async def synthesize(self, text: str) -> AsyncIterator[bytes]:
            if self.asked:
                await heard.wait()  # a say() that first makes all of it would stand here for ever
            async for pcm in super().synthesize(text):
                yield pcm

    async with MemoryLeg(8000, speed=FAST, far=lambda _: heard.set()) as leg:
        voice = Waits()
        await say(leg, voice, "Welcome. How are you today?")
        assert voice.asked == ["Welcome.", "How are you today?"]


async def test_say_of_nothing_asks_nobody() -> None:
    async with MemoryLeg(8000, speed=FAST) as leg:
        voice = Voice()
        assert await say(leg, voice, "  ") == Said("  ", 0.0, interrupted=False)
        assert voice.asked == []


@pytest.mark.parametrize("rate", [16000, 22050, 24000])
async def test_say_gives_the_leg_its_own_rate(rate: int) -> None:
    async with MemoryLeg(8000, speed=FAST) as leg:
        said = await say(leg, Voice(rate, seconds=1.0), "Hello.")
        assert said.seconds == pytest.approx(1.0, abs=0.02)
        assert len(leg.played) == pytest.approx(16000, abs=FRAME)
        middle = leg.played[6000:10000]
        assert set(middle[0::2]) <= {5, 6, 7}  # the samples are 6, give or take rounding
        assert set(middle[1::2]) == {0}


async def test_a_key_cuts_in_at_once() -> None:
    key = asyncio.Event()

    def far(_: bytes) -> None:
        if len(leg.played) == 10 * FRAME:
            key.set()

    async with MemoryLeg(8000, speed=FAST, far=far) as leg:
        voice = Voice(seconds=20.0)
        said = await say(leg, voice, "Please listen to this long text.", barge_in=key)
        played = len(leg.played)
        assert said.interrupted
        assert said.seconds == pytest.approx(played / 16000)
        assert 10 * FRAME <= played <= 100 * FRAME  # of 1000
        assert leg.queued == 0
        assert voice.open == 0
        await leg.send(b"")
        await leg.drained()
        assert len(leg.played) == played
    assert await tasks_have_ended()


async def test_a_key_that_was_pressed_before_leaves_nothing_to_say() -> None:
    key = asyncio.Event()
    key.set()
    async with MemoryLeg(8000, speed=FAST) as leg:
        voice = Voice()
        assert await say(leg, voice, "Hello.", barge_in=key) == Said("Hello.", 0.0, interrupted=True)
        assert voice.asked == []
        assert not leg.played


async def test_a_prompt_that_nobody_interrupts_ends_with_barge_in_too() -> None:
    async with MemoryLeg(8000, speed=FAST, far=lambda pcm: quiet(0.02)) as leg:
        said = await say(leg, Voice(), "Hello.", barge_in=VoiceBargeIn(8000))
        assert said == Said("Hello.", 0.5, interrupted=False)
    assert await tasks_have_ended()


async def test_a_caller_who_speaks_cuts_in_and_is_heard_from_the_first_word() -> None:
    caller = spoken(UNDERSTOOD[0])
    line = frames(noise(1.0, dbfs=-60.0) + caller + quiet(2.0))
    turn = iter(line)

    async with MemoryLeg(8000, speed=FAST, keep=60.0, far=lambda _: next(turn)) as leg:
        barge = VoiceBargeIn(leg.rate)
        said = await say(leg, Voice(seconds=30.0), "A long story.", barge_in=barge)
        assert said.interrupted
        assert 1.0 < said.seconds < 2.0
        for frame in turn:
            leg.say(frame)
        ear = Ear()
        await hear(leg, ear, timeout=5.0, before=barge.heard)
        ((pcm, _),) = ear.heard
        # All of it, from before its first loud sample on.
        assert caller[3200:-6400] in pcm
        assert len(pcm) < len(caller) + 16000


async def test_a_leg_that_ends_ends_say() -> None:
    async with MemoryLeg(8000, speed=FAST, far=lambda _: leg.hang_up()) as leg:
        voice = Voice(seconds=5.0)
        with pytest.raises(CallEnded):
            await say(leg, voice, "Hello.")
        assert voice.open == 0
        with pytest.raises(CallEnded):
            await say(leg, voice, "Hello.", barge_in=VoiceBargeIn(8000))
    assert await tasks_have_ended()


async def test_a_provider_that_fails_in_the_middle_leaves_nothing_queued() -> None:
    async with MemoryLeg(8000, speed=FAST) as leg:
        with pytest.raises(SpeechUnavailable, match="the connection failed"):
            await say(leg, Voice(breaks=True), "Hello.")
        assert leg.queued == 0
    assert await tasks_have_ended()


async def test_a_say_that_is_cancelled_falls_silent() -> None:
    begun = asyncio.Event()
    async with MemoryLeg(8000, speed=FAST, far=lambda _: begun.set()) as leg:
        voice = Voice(seconds=60.0)
        saying = asyncio.create_task(say(leg, voice, "A very long story."))
        await begun.wait()
        saying.cancel()
        with suppress(asyncio.CancelledError):
            await saying
        assert saying.cancelled()
        assert leg.queued == 0
        assert voice.open == 0
    assert await tasks_have_ended()


# --- hearing ----------------------------------------------------------------------------------------------


async def test_hear_gives_the_speech_and_little_else() -> None:
    caller = spoken(UNDERSTOOD[1])
    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, quiet(3.0) + caller + quiet(1.5))
        ear = Ear()
        words = await hear(leg, ear, timeout=5.0)
        assert words == "yes please"
        assert (words.confidence, words.language, words.ended_by) == (0.9, "en", "silence")
        ((pcm, rate),) = ear.heard
        assert rate == 8000
        assert caller[1600:-4800] in pcm
        assert len(pcm) <= len(caller) + 16000 * 0.6


async def test_a_recogniser_may_know_no_more_than_the_words() -> None:
    class Plain:
        async def transcribe(self, pcm: bytes, rate: int) -> str:
            return "yes please"

    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, spoken(UNDERSTOOD[1]) + quiet(1.5))
        words = await hear(leg, Plain(), timeout=5.0)
        assert words == "yes please"
        assert (words.confidence, words.language, words.ended_by) == (None, None, "silence")


async def test_hear_ends_after_the_silence_it_was_told() -> None:
    one, two = spoken(UNDERSTOOD[1]), spoken(UNDERSTOOD[2])
    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, one + quiet(1.0) + two + quiet(3.0))
        ear = Ear()
        await hear(leg, ear, timeout=5.0, silence=0.5)
        await hear(leg, ear, timeout=5.0, silence=0.5)
        assert one[1600:-4800] in ear.heard[0][0]
        assert two[1600:-4800] in ear.heard[1][0]


@pytest.mark.parametrize(
    "line", [b"", quiet(2.0), noise(2.0, dbfs=-55.0)], ids=["nothing", "silence", "noise"]
)
async def test_nobody_spoke(line: bytes) -> None:
    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, line)
        ear = Ear()
        words = await hear(leg, ear, timeout=0.05)
        assert words == ""
        assert words.ended_by == "timeout"
        assert ear.heard == []


async def test_somebody_who_never_stops_is_cut_off() -> None:
    talk = (spoken(UNDERSTOOD[0]) + spoken(UNDERSTOOD[2])) * 2
    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, talk)
        ear = Ear()
        words = await hear(leg, ear, timeout=5.0, most=4.0)
        assert words.ended_by == "most"
        ((pcm, _),) = ear.heard
        assert len(pcm) / 16000 == pytest.approx(4.0, abs=0.4)


async def test_a_line_that_sends_nothing_after_the_speech_is_silent() -> None:
    caller = spoken(UNDERSTOOD[1])
    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, caller)
        ear = Ear()
        words = await hear(leg, ear, timeout=5.0, silence=0.3)
        assert words.ended_by == "silence"
        assert caller[1600:-4800] in ear.heard[0][0]


async def test_a_line_that_sends_nothing_may_reach_the_most_too() -> None:
    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, spoken("Yes."))
        words = await hear(leg, Ear(), timeout=5.0, silence=60.0, most=1.2)
        assert words.ended_by == "most"


async def test_a_leg_that_ends_ends_hear() -> None:
    async with MemoryLeg(8000, keep=60.0) as leg:
        listening = asyncio.create_task(hear(leg, Ear(), timeout=5.0))
        said_to(leg, spoken(UNDERSTOOD[1]))
        leg.hang_up()
        with pytest.raises(CallEnded):
            await listening


async def test_a_recogniser_that_fails_is_told() -> None:
    class Broken:
        async def transcribe(self, pcm: bytes, rate: int) -> Transcript:
            raise SpeechUnavailable("http://127.0.0.1:1/v1: answered with status 500")

    async with MemoryLeg(8000, keep=60.0) as leg:
        said_to(leg, spoken(UNDERSTOOD[1]) + quiet(1.0))
        with pytest.raises(SpeechUnavailable, match="500"):
            await hear(leg, Broken(), timeout=5.0)


def test_a_transcript_is_a_text_that_knows_more() -> None:
    words = Transcript("good morning", confidence=0.5)
    assert words == "good morning"
    assert "morning" in words
    assert (words.confidence, words.language, words.ended_by) == (0.5, None, "silence")
    assert not Transcript(ended_by="timeout")
