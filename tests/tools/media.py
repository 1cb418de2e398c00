"""Calls with sound on a lab's Asterisk: a Stasis app, far sides that speak, echo or press keys, bridges.

Used by the live tests of the audio room, by the script that captured bytes for its unit tests, and by the
bench. The far sides are Local channels; their dialplan is typed into the console, so no file changes.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

import aiohttp

from voxtractl.lab import Lab

__all__ = ["FORMATS", "Calls", "Far"]

FORMATS: Final[Mapping[int, str]] = {8000: "slin", 16000: "slin16", 24000: "slin24", 48000: "slin48"}
CONTEXT: Final = "audio-test"

# extension → what the far side does
FARS: Final[Mapping[str, tuple[str, ...]]] = {
    "echo": ("Answer", "Echo"),
    "keys": ("Answer", "SendDTMF,12*#D", "Milliwatt"),
    "milliwatt": ("Answer", "Milliwatt"),  # 1004 Hz
    "silent": ("Answer", "Wait,600"),
}
Far = str


class Calls:
    """A connected Stasis app of its own; use as ``async with Calls(lab) as calls``. Leaves nothing behind."""

    def __init__(self, lab: Lab) -> None:
        self.app = f"audio-{uuid4().hex[:8]}"
        self._lab = lab
        self._made: list[str] = []
        self._bridges: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._type_dialplan)
        key = aiohttp.encode_basic_auth(self._lab.ari_user, self._lab.ari_password.reveal())
        self._http = aiohttp.ClientSession(
            self._lab.ari_url,
            headers={"Authorization": key},
            connector=aiohttp.TCPConnector(limit=8),
        )
        self._socket = await self._http.ws_connect("/ari/events", params={"app": self.app})
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for channel in self._made:
            await self.hang_up(channel)
        for bridge in self._bridges:
            await self.ari("DELETE", f"bridges/{bridge}")
        await self._socket.close()
        await self._listening
        await self._http.close()

    def _type_dialplan(self) -> None:
        for extension, steps in FARS.items():
            for number, step in enumerate(steps, 1):
                self._lab.cli(f"dialplan add extension {extension},{number},{step} into {CONTEXT} replace")

    async def _listen(self) -> None:
        async for message in self._socket:
            async with self._news:
                self._events.append(message.json())
                self._news.notify_all()

    async def ari(self, method: str, path: str, **query: str) -> tuple[int, Any]:
        async with self._http.request(method, f"/ari/{path}", params=query) as answer:
            text = await answer.text()
            return answer.status, await answer.json() if text else None

    async def event(self, kind: str, channel: str) -> dict[str, Any]:
        """The first event of this type for a channel, whether it has come already or not."""

        def found() -> dict[str, Any] | None:
            for event in self._events:
                if event["type"] == kind and event["channel"]["id"] == channel:
                    return event
            return None

        async with asyncio.timeout(20), self._news:
            while (event := found()) is None:
                await self._news.wait()
        return event

    # --- channels -----------------------------------------------------------------------------------------

    async def audiosocket(self, address: str, leg_id: UUID, rate: int) -> str:
        """An external media channel that connects to us; its id."""
        return await self._media(
            rate, encapsulation="audiosocket", transport="tcp", external_host=address, data=str(leg_id)
        )

    async def websocket(self, rate: int) -> tuple[str, str]:
        """An external media channel we have to connect to; its id and the name of its connection."""
        channel = await self._media(
            rate,
            encapsulation="none",
            transport="websocket",
            connection_type="server",
            transport_data="f(json)",
        )
        variable = "MEDIA_WEBSOCKET_CONNECTION_ID"
        status, answer = await self.ari("GET", f"channels/{channel}/variable", variable=variable)
        assert status == 200, answer
        return channel, answer["value"]

    async def _media(self, rate: int, **query: str) -> str:
        channel = uuid4().hex
        status, answer = await self.ari(
            "POST",
            "channels/externalMedia",
            app=self.app,
            channelId=channel,
            format=FORMATS[rate],
            **query,
        )
        assert status == 200, answer
        self._made.append(channel)
        return channel

    async def far(self, extension: Far) -> str:
        """A call whose far side does what the extension says; the id of our end, answered."""
        channel = uuid4().hex
        status, answer = await self.ari(
            "POST", "channels", app=self.app, channelId=channel, endpoint=f"Local/{extension}@{CONTEXT}"
        )
        assert status == 200, answer
        self._made.append(channel)
        await self.event("StasisStart", channel)
        return channel

    async def bridge(self, *channels: str) -> str:
        status, bridge = await self.ari("POST", "bridges", type="mixing")
        assert status == 200, bridge
        self._bridges.append(bridge["id"])
        for channel in channels:
            await self.event("StasisStart", channel)
        status, answer = await self.ari(
            "POST", f"bridges/{bridge['id']}/addChannel", channel=",".join(channels)
        )
        assert status == 204, answer
        return str(bridge["id"])

    async def hang_up(self, channel: str) -> None:
        await self.ari("DELETE", f"channels/{channel}")

    async def lives(self, channel: str) -> bool:
        status, _ = await self.ari("GET", f"channels/{channel}")
        return status == 200
