"""Sounds that are given up, and tones one after the other, before a node that does what it is told."""

import asyncio
import gc

import pytest

from tests.unit.runtime.test_channel import Node, channel_at
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriUnreachable
from voxtractl.runtime.sounds import Sounds, tone_of


async def test_a_tone_that_begins_as_the_one_before_ends_can_be_stopped() -> None:
    """Both have the id of the call's tones, and who waits for the first comes to know of its end after the
    second has begun."""
    node = Node()
    sounds = Sounds(channel_at(node))
    tone = tone_of("call")
    await sounds.play(["tone:ring"], "play_tone", wait=False)
    await asyncio.sleep(0)
    sounds.finished(tone, "done")
    await sounds.play(["tone:busy"], "play_tone", wait=False)
    for _ in range(5):
        await asyncio.sleep(0)
    assert node.asked == [f"POST /channels/call/play/{tone}"] * 2
    await sounds.stop()
    assert node.asked[-1] == f"DELETE /playbacks/{tone}"


async def test_a_tone_waits_for_the_end_of_the_one_before_which_is_stopped_once() -> None:
    node = Node()
    sounds = Sounds(channel_at(node))
    tone = tone_of("call")
    await sounds.play(["tone:ring"], "play_tone", wait=False)
    await sounds.stop_tones()
    node.answers = [Answer(404)]  # to a second DELETE, before Asterisk has told the end
    busy = asyncio.create_task(sounds.play(["tone:busy"], "play_tone", wait=False))
    await asyncio.sleep(0.01)
    assert node.asked == [f"POST /channels/call/play/{tone}", f"DELETE /playbacks/{tone}"]
    node.answers = []
    sounds.finished(tone, "done")
    await busy
    assert node.asked[2:] == [f"POST /channels/call/play/{tone}"]
    assert not sounds.quiet


class SlowNode(Node):
    """What is asked for a sound is answered when ``answer`` is there."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def ask(self, request: Request) -> Answer:
        self.asked.append(f"{request.method} {request.path}")
        return await self.answer if request.method == "POST" else Answer(404)


async def test_a_sound_that_is_stopped_is_ended_when_asterisk_has_answered_for_it() -> None:
    node = SlowNode()
    sounds = Sounds(channel_at(node))
    playing = asyncio.create_task(sounds.play(["sound:hello-world"], "play_file", wait=True))
    await asyncio.sleep(0.01)
    stopping = asyncio.create_task(sounds.stop())
    await asyncio.sleep(0.01)
    assert len(node.asked) == 1
    node.answer.set_result(Answer(201, {}))
    await stopping
    assert (await playing).status == "stopped"
    assert node.asked[1].startswith("DELETE /playbacks/")
    assert sounds.quiet


@pytest.mark.parametrize("fails", [False, True])
async def test_a_sound_that_is_given_up_is_ended_when_asterisk_has_answered_for_it(fails: bool) -> None:
    node = SlowNode()
    sounds = Sounds(channel_at(node))
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    playing = asyncio.create_task(sounds.play(["sound:hello-world"], "play_file", wait=True))
    await asyncio.sleep(0.01)
    playing.cancel()
    await asyncio.wait([playing])
    await asyncio.sleep(0.01)
    assert playing.cancelled()
    assert len(node.asked) == 1
    assert not sounds.quiet
    if fails:
        node.answer.set_exception(AriUnreachable("no answer", method="POST", path=""))
    else:
        node.answer.set_result(Answer(201, {}))
    await sounds.until_quiet("answer")
    post, delete = node.asked
    assert delete == f"DELETE /playbacks/{post.rpartition('/')[2]}"
    del playing
    gc.collect()
    assert not faults
