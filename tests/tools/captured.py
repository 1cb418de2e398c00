"""Writes what the unit tests of the audio room compare with: ``python -m tests.tools.captured``.

Everything comes from a lab's Asterisk, nothing from our own code:

    captured/slin*.audiosocket    what it sends us: a UUID, five keys, 100 ms of 1004 Hz
    captured/all.ulaw.gz, .alaw   all 65,536 samples, counted up from 0 as unsigned numbers, by its converter
    captured/codes-*.slin.gz      all 256 codes, turned into samples
"""

import asyncio
import gzip
from pathlib import Path
from struct import pack
from typing import Final
from uuid import UUID

from tests.tools.media import FORMATS, Calls
from voxtractl.lab import Lab, purge, up

__all__ = ["CAPTURED", "LEG_ID"]

CAPTURED: Final = Path(__file__).parents[1] / "unit" / "audio" / "captured"
LEG_ID: Final = UUID("5c1f0d2e-7a34-4b8e-9f60-3d2a1b0c4e5f")
FRAMES: Final = 1 + 5 + 5  # the UUID, the keys, the sound


async def audiosocket(lab: Lab, rate: int) -> bytes:
    """The first FRAMES frames, read with nothing but their lengths."""
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = b""
        for _ in range(FRAMES):
            header = await reader.readexactly(3)
            taken += header + await reader.readexactly(int.from_bytes(header[1:], "big"))
        done.set_result(taken)
        writer.close()

    server = await asyncio.start_server(read, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, Calls(lab) as calls:
        channel = await calls.audiosocket(f"{host}:{port}", LEG_ID, rate)
        await calls.bridge(channel, await calls.far("keys"))
        return await done


def convert(lab: Lab, source: str, content: bytes, target: str) -> bytes:
    folder = lab.instance / "spool" / "tmp"
    (folder / source).write_bytes(content)
    (folder / source).chmod(0o644)
    inside = f"{lab.inside}/spool/tmp"
    lab.cli(f"file convert {inside}/{source} {inside}/{target}")
    return (folder / target).read_bytes()


def main() -> None:
    name = "captured"
    lab = up(name, report=print)
    try:
        CAPTURED.mkdir(exist_ok=True)
        for rate, form in FORMATS.items():
            (CAPTURED / f"{form}.audiosocket").write_bytes(asyncio.run(audiosocket(lab, rate)))
        everything = pack("<65536H", *range(65536))
        for codec in ("ulaw", "alaw"):
            for source, content, target in (
                ("all.slin", everything, f"all.{codec}"),
                (f"codes.{codec}", bytes(range(256)), f"codes-{codec}.slin"),
            ):
                packed = gzip.compress(convert(lab, source, content, target), mtime=0)
                (CAPTURED / f"{target}.gz").write_bytes(packed)
    finally:
        purge(name)


if __name__ == "__main__":
    main()
