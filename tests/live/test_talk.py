"""A call that speaks and one that listens: say() and listen() of two sessions, through the real Asterisk."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.live.conftest import NodeDocument, needs_media
from tests.live.pbx import ACME, BETA, TENANTS, Pbx
from tests.tools.spoken import UNDERSTOOD
from voxtractl import VoxtraApp
from voxtractl.errors import SpeechUnavailable
from voxtractl.lab import Lab
from voxtractl.runtime.session import CallSession
from voxtractl.runtime.speech import PiperSpeech, PocketsphinxRecognizer, Transcript


@pytest.fixture
async def pbx(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    pbx = Pbx(lab, await asyncio.to_thread(node_document, TENANTS))
    pbx.write_far_contexts()
    await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")
    yield pbx
    for row in pbx.channels():
        pbx.ari("DELETE", f"channels/{row['id']}")
    await pbx.empty()


def words(text: str) -> set[str]:
    return set("".join(c for c in text.lower() if c.isalpha() or c in " '").split())


@pytest.mark.parametrize("media", ["audiosocket", "websocket"])
async def test_one_call_says_a_sentence_and_the_other_understands_it(pbx: Pbx, media: str) -> None:
    needs_media(pbx.lab, media)
    voice, ear = PiperSpeech(variation=0.0), PocketsphinxRecognizer()
    await ear.ready()
    await voice.ready()
    speaks = VoxtraApp(**pbx.account, app_name="voxtra-beta", tts=voice, media=media)
    listens = VoxtraApp(**pbx.account, app_name="voxtra-acme", stt=ear, media=media)
    heard: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
    listening = asyncio.Event()

    @speaks.default()
    async def beta(call: CallSession) -> None:
        await call.answer()
        await listening.wait()
        await call.say(UNDERSTOOD[0])
        await call.wait_ended()

    @listens.default()
    async def acme(call: CallSession) -> None:
        await call.answer()
        await call.open_leg(16000)
        listening.set()
        heard.set_result(await call.listen(timeout=15))

    await speaks.start()
    await listens.start()
    try:
        pbx.call(ACME, "from-trunk", BETA)
        got = await asyncio.wait_for(heard, 40)
        missed = words(UNDERSTOOD[0]) - words(got)
        assert len(missed) <= 3, f"{got!r} misses {missed}"
    finally:
        await speaks.stop()
        await listens.stop()
        await voice.close()
        await ear.close()


async def test_a_digit_ends_a_prompt_that_lets_itself_be_interrupted(pbx: Pbx) -> None:
    voice = PiperSpeech(variation=0.0)
    await voice.ready()
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme", tts=voice)
    result: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()

    @app.default()
    async def acme(call: CallSession) -> None:
        await call.answer()
        said = await call.say(" ".join(UNDERSTOOD), barge_in=True)
        result.set_result((said.interrupted, str(await call.listen_dtmf(1, 5))))

    await app.start()
    try:
        pbx.call(ACME, "far-dtmf", "7")
        assert await asyncio.wait_for(result, 30) == (True, "7")
    finally:
        await app.stop()
        await voice.close()


async def test_without_a_provider_the_line_to_configure_is_told(pbx: Pbx) -> None:
    app = VoxtraApp(**pbx.account, app_name="voxtra-acme")
    hints: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    @app.default()
    async def acme(call: CallSession) -> None:
        await call.answer()
        told = []
        for verb in (call.say("hello"), call.listen()):
            with pytest.raises(SpeechUnavailable) as caught:
                await verb
            told.append(caught.value.hint or "")
        hints.set_result(told)

    await app.start()
    try:
        pbx.call(ACME)
        say, listen = await asyncio.wait_for(hints, 10)
        assert "tts=" in say
        assert "stt=" in listen
    finally:
        await app.stop()
