"""A TCP proxy in front of an Asterisk, to cut or to freeze what goes through it."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

__all__ = ["Proxy", "proxy", "reset"]


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection as a host does that knows nothing of it."""
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    cast("asyncio.Transport", transport).abort()


class Proxy:
    """Carries bytes both ways between whoever connects and ``port`` on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        self.connections = 0
        self.resets = 0  # so many more connections are reset as soon as they are there
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.held = asyncio.Event()  # what is kept back has come
        self._word = b""
        self._released = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """End every connection as a network does: without a farewell."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Carry nothing any more, and keep every connection."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def hold(self, word: bytes) -> None:
        """Keep back what has this word in it, also when who sent it has gone; all else is carried."""
        self._word = word
        self._released.clear()

    def release(self) -> None:
        self._word = b""
        self._released.set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.resets:
            self.resets -= 1
            reset(writer.transport)
            return
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # nobody is there
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.port)
            self._writers.add(far)
            await asyncio.gather(self._carry(reader, far), self._carry(far_reader, writer))
        writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # it was cut
            while data := await reader.read(65_536):
                await self._flowing.wait()
                if self._word and self._word in data:
                    self.held.set()
                    await self._released.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()  # its own reader ends by that, and so the other way

    async def end(self) -> None:
        self.thaw()
        self.release()
        self.cut()
        while self._serving:
            await asyncio.wait(set(self._serving))
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    found = Proxy(port)
    server = await asyncio.start_server(found.accept, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        await found.end()
