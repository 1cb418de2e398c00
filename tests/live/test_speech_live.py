"""Prompts and answers through the real Asterisk: two media legs in one bridge talk to each other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from tests.live.conftest import needs
from tests.tools.media import Calls
from tests.tools.spoken import UNDERSTOOD, spoken
from voxtractl.ari.release import LEG_RATES
from voxtractl.audio.leg import Leg
from voxtractl.audio.server import AudioServer
from voxtractl.lab import Lab
from voxtractl.runtime.speech import (
    PiperSpeech,
    PocketsphinxRecognizer,
    Transcript,
    VoiceBargeIn,
    hear,
    say,
)


def words(text: str) -> set[str]:
    return set("".join(c for c in text.lower() if c.isalpha() or c in " '").split())


@asynccontextmanager
async def two_legs(lab: Lab, rate: int, other: int) -> AsyncIterator[tuple[Leg, Leg]]:
    async with AudioServer() as server, Calls(lab) as calls:
        legs, channels = [], []
        for each in (rate, other):
            leg_id = uuid4()
            leg = server.expect(leg_id, each)
            channels.append(await calls.audiosocket(server.address, leg_id, each))
            await leg.connected()
            legs.append(leg)
        await calls.bridge(*channels)
        yield legs[0], legs[1]
        for leg in legs:
            await leg.close()


@pytest.mark.parametrize(("rate", "other"), [(8000, 8000), (16000, 16000), (24000, 8000)])
async def test_what_one_says_the_other_understands(lab: Lab, rate: int, other: int) -> None:
    if rate != 8000:
        needs(lab, LEG_RATES)
    voice, ear = PiperSpeech(variation=0.0), PocketsphinxRecognizer()
    await ear.ready()
    try:
        async with asyncio.timeout(60), two_legs(lab, rate, other) as (one, two):
            for text in UNDERSTOOD[:2]:
                listening = asyncio.create_task(hear(two, ear, timeout=15))
                said = await say(one, voice, text)
                heard = await listening
                assert not said.interrupted
                assert heard.ended_by == "silence"
                missed = words(text) - words(heard)
                assert len(missed) <= 2, f"{heard!r} misses {missed}"
    finally:
        await voice.close()
        await ear.close()


async def test_who_speaks_during_a_prompt_stops_it_and_is_understood(lab: Lab) -> None:
    voice, ear = PiperSpeech(variation=0.0), PocketsphinxRecognizer()
    await ear.ready()
    story = "This is a very long story about the weather. " * 20

    async def answer(leg: Leg) -> None:
        while not any(await leg.receive()):  # until the story has begun over there
            pass
        await leg.send(spoken(UNDERSTOOD[0], leg.rate))

    try:
        async with asyncio.timeout(60), two_legs(lab, 8000, 8000) as (one, two):
            answering = asyncio.create_task(answer(two))
            barge = VoiceBargeIn(one.rate)
            said = await say(one, voice, story, barge_in=barge)
            assert said.interrupted
            assert one.queued == 0
            heard: Transcript = await hear(one, ear, timeout=15, before=barge.heard)
            await answering
            missed = words(UNDERSTOOD[0]) - words(heard)
            assert len(missed) <= 2, f"{heard!r} misses {missed}"
    finally:
        await voice.close()
        await ear.close()
