"""Tones, one after the other, before a node that does what it is told."""

import asyncio

from tests.unit.runtime.test_channel import Node, channel_at
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
