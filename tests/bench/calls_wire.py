"""``python -m tests.bench.calls_wire HOST PORT``: a proxy before Asterisk that looks at the clock.

Prints the port it listens on; at SIGTERM, as JSON, the seconds from each StasisStart to the first command
that names its channel, and to its answer. A process of its own, so that it measures nobody's but its own
delays: a StasisStart is stamped before it is handed on, a command when it arrives.
"""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["Frames", "Stamps", "main"]

START: Final = b'"type":"StasisStart"'
CHANNEL: Final = re.compile(rb'"channel":\{"id":"([^"]+)"')
NAMED: Final = re.compile(rb"channel(?:s/|:|%3A)([0-9a-zA-Z.-]+)(/answer)?")


class Stamps:
    """Who entered the app when, and when the first command for it came."""

    def __init__(self) -> None:
        self._started: dict[bytes, float] = {}
        self.first: dict[bytes, float] = {}
        self.answer: dict[bytes, float] = {}

    def told(self, message: bytes) -> None:
        """A message from Asterisk."""
        if START in message[:200] and (found := CHANNEL.search(message)):
            self._started[found[1]] = time.monotonic()

    def asked(self, message: bytes) -> None:
        """A command to Asterisk: a websocket's message, or what HTTP sent at once."""
        now = time.monotonic()
        for found in NAMED.finditer(message):
            started = self._started.get(found[1])
            if started is not None:
                self.first.setdefault(found[1], now - started)
                if found[2]:
                    self.answer.setdefault(found[1], now - started)


class Frames:
    """Bytes of one direction become messages: frames after a websocket's handshake, else what came at once.

    Frames of Asterisk and of clients of ARI are whole messages; neither fragments or compresses.
    """

    def __init__(self, message: Callable[[bytes], None]) -> None:
        self._message = message
        self._left = b""
        self._upgraded: bool | None = None  # None: nothing came yet

    def feed(self, data: bytes) -> None:
        if self._upgraded is None:
            head, _, rest = data.partition(b"\r\n\r\n")
            self._upgraded = b"upgrade: websocket" in head.lower()
            if self._upgraded:
                data = rest
        if not self._upgraded:
            self._message(data)
            return
        self._left += data
        while (end := self._frame()) is not None:
            self._left = self._left[end:]

    def _frame(self) -> int | None:
        """Tell the frame at the begin, when it is complete; where it ends."""
        left = self._left
        if len(left) < 2:
            return None
        masked, size, at = left[1] & 0x80, left[1] & 0x7F, 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(left[at : at + wide], "big"), at + wide
        key, at = (left[at : at + 4], at + 4) if masked else (b"", at)
        end = at + size
        if len(left) < end:
            return None
        if left[0] & 0x0F == 1:
            self._message(_unmasked(left[at:end], key))
        return end


def _unmasked(payload: bytes, key: bytes) -> bytes:
    if not key:
        return payload
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(payload), "big")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames) -> None:
    try:
        while data := await reader.read(65536):
            frames.feed(data)
            writer.write(data)
    except OSError:
        pass  # one of the two was cut; so is the other
    finally:
        writer.close()


async def main(host: str, port: int) -> None:
    stamps = Stamps()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, port)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(
                _pass_on(reader, ours, Frames(stamps.asked)), _pass_on(theirs, writer, Frames(stamps.told))
            )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await told.wait()
    server.close()
    print(json.dumps({"first": list(stamps.first.values()), "answer": list(stamps.answer.values())}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
