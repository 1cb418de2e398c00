"""ari-client's half of the calls bench: answer, hang up, a byte to stdout for each; run by its own Python."""

import asyncio
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

from ari_client import AriClient  # type: ignore[import-not-found]

__all__ = ["main"]


async def main(url: str, user: str, password: str, app: str) -> None:
    place = urlsplit(url)
    client = AriClient(host=place.hostname, port=place.port, ari_user=user, ari_password=password)

    async def take(event: Any) -> None:
        await event.channel.answer()
        await event.channel.stop()
        os.write(1, b".")

    client.on_stasis_start(take)
    await client.connect(app=app)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(**json.load(sys.stdin)))
