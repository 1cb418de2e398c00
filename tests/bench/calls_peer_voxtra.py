"""voxtra's half of the calls bench: answer, hang up, a byte to stdout for each; run by its own Python."""

import asyncio
import json
import os
import sys
from typing import Any

from voxtra import VoxtraApp  # type: ignore[import-not-found]

__all__ = ["main"]


async def main(url: str, user: str, password: str, app: str) -> None:
    serving = VoxtraApp(ari_url=url, ari_user=user, ari_password=password, app_name=app)

    @serving.default()  # type: ignore[untyped-decorator]
    async def take(call: Any) -> None:
        await call.answer()
        await call.hangup()
        os.write(1, b".")

    await serving.start()


if __name__ == "__main__":
    asyncio.run(main(**json.load(sys.stdin)))
