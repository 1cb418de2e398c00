"""asyncari's half of the calls bench: answer, hang up, a byte to stdout for each; run by its own Python."""

import json
import os
import sys
from typing import Any

import anyio  # type: ignore[import-not-found]
import asyncari  # type: ignore[import-not-found]

__all__ = ["main"]


async def main(url: str, user: str, password: str, app: str) -> None:
    async def take(channel: Any) -> None:
        await channel.answer()
        await channel.hangup()
        os.write(1, b".")

    # its URLs end with a slash: it joins its paths to them
    async with (
        asyncari.connect(f"{url}/", app, user, password) as ari,
        ari.on_channel_event("StasisStart") as starts,
    ):
        async for channels, _ in starts:
            ari.taskgroup.start_soon(take, channels["channel"] if isinstance(channels, dict) else channels)


if __name__ == "__main__":
    anyio.run(lambda: main(**json.load(sys.stdin)))
