"""The lab's Asterisk with tenants on it, and far sides to call them from: Local channels whose other half
runs a context of ours. What is asked here goes over plain HTTP, never through the code under test."""

import asyncio
import json
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import uuid4

from tests.live.conftest import NodeDocument
from voxtractl import VoxtraApp
from voxtractl.lab import Lab
from voxtractl.runtime.lifecycle import Ended
from voxtractl.runtime.session import CallSession

__all__ = [
    "ACME",
    "BETA",
    "FAR",
    "TENANTS",
    "Far",
    "Pbx",
    "Seen",
    "left_over",
    "nothing",
    "pushed",
    "serving",
    "until",
]

ACME, BETA = "+265999000001", "+265999000002"

TENANTS = f"""
[tenants.acme]
name = "Acme Ltd"
dids = ["{ACME}"]
[tenants.acme.trunk]
host = "127.0.0.9"
allow_transfer = true
[tenants.acme.queues.support]
members = ["Local/s@far-agent"]
timeout = 5
[tenants.acme.queues.nobody]
members = []
max_callers = 1
[tenants.acme.outbound]
caller_ids = ["+265888000001"]
allow = ["+265"]

[tenants.beta]
name = "Beta"
dids = ["{BETA}"]
"""

# What the far sides do when they are connected.
FAR = """
[far-wait]
exten => s,1,Answer()
 same => n,Wait(60)
[far-dtmf]
exten => _X!,1,Answer()
 same => n,Wait(0.3)
 same => n,SendDTMF(${FILTER(0-9*#A-D,${EXTEN})},50,50)
 same => n,Wait(60)
[far-early]
exten => _X!,1,SendDTMF(${FILTER(0-9*#A-D,${EXTEN})},50,50)
 same => n,Wait(60)
[far-soon]
exten => s,1,Answer()
 same => n,Wait(0.4)
 same => n,Hangup()
[far-echo]
exten => s,1,Answer()
 same => n,Echo()
[far-tone]
exten => s,1,Answer()
 same => n,Milliwatt()
[far-agent]
exten => s,1,Answer()
 same => n,Wait(${IF($["${AGENT_STAYS}" = ""]?1:60)})
 same => n,Hangup()
[far-desk]
exten => s,1,Answer()
 same => n,Set(GLOBAL(SEEN)=${VOXTRA_INTENT}/${VOXTRA_VIP}/${VOXTRA_TURNS})
 same => n,Wait(1)
 same => n,Hangup()
[far-busy]
exten => s,1,Busy()
[far-rings]
exten => s,1,Ringing()
 same => n,Wait(60)
[far-congestion]
exten => s,1,Congestion()
[far-variables]
exten => s,1,Answer()
 same => n,Set(GLOBAL(SEEN)=${MY_CALL_ID}/${MY_RECORD})
 same => n,Wait(60)
"""


class Far:
    """The other side of a call; ``id`` is the half that runs a far context."""

    def __init__(self, pbx: "Pbx", channel_id: str) -> None:
        self.pbx, self.id = pbx, channel_id

    @property
    def up(self) -> bool:
        return self.pbx.ari("GET", f"channels/{self.id}")[0] == 200

    def hangup(self) -> None:
        self.pbx.ari("DELETE", f"channels/{self.id}")

    def goes(self, context: str, exten: str) -> None:
        """Let it run another far context from now on."""
        name = json.loads(self.pbx.ari("GET", f"channels/{self.id}")[1])["name"]
        self.pbx.lab.cli(f"channel redirect {name} {context},{exten},1")

    def variable(self, name: str) -> str:
        status, text = self.pbx.ari("GET", f"channels/{self.id}/variable", variable=name)
        return str(json.loads(text)["value"]) if status == 200 else ""


class Pbx:
    """``config`` is the document whose tenants are live after ``push``."""

    def __init__(self, lab: Lab, config: Path) -> None:
        self.lab, self.config = lab, config
        self._word = f"{lab.ari_user}:{lab.ari_password.reveal()}"

    @property
    def account(self) -> dict[str, Any]:
        """How a VoxtraApp reaches it."""
        return {
            "ari_url": self.lab.ari_url,
            "ari_user": self.lab.ari_user,
            "ari_password": self.lab.ari_password.reveal(),
        }

    def write_far_contexts(self, more: str = "") -> None:
        top = self.lab.config_dir / "extensions.conf"
        text = top.read_text()
        if "[far-wait]" not in text:
            before, mark, after = text.partition("; >>> voxtractl")
            top.write_text(f"{before}\n{FAR}{more}\n{mark}{after}")
            assert self.ari("PUT", "asterisk/modules/pbx_config.so")[0] == 204

    def voxtractl(self, *words: str) -> str:
        """A command of the real command line, in a process of its own; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "voxtractl", "--config", str(self.config), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ari(self, method: str, path: str, body: object = None, **query: str) -> tuple[int, str]:
        text = f"?{urlencode(query)}" if query else ""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.lab.ari_url}/ari/{path}{text}", data, method=method)
        request.add_header("Authorization", f"Basic {b64encode(self._word.encode()).decode()}")
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def call(
        self,
        number: str = ACME,
        far: str = "far-wait",
        exten: str = "s",
        *,
        caller: str = "+265700000001",
        trunk: str = "from-trunk",
    ) -> Far:
        """Call a number of a tenant; the far side runs ``far`` as soon as the call is answered."""
        channel = uuid4().hex
        status, text = self.ari(
            "POST",
            f"channels/{channel}",
            endpoint=f"Local/{number}@{trunk}/n",
            context=far,
            extension=exten,
            priority="1",
            callerId=caller,
        )
        assert status == 200, text
        return Far(self, channel)

    def channels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ari("GET", "channels")[1])
        return found

    def bridges(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ari("GET", "bridges")[1])
        return found

    async def empty(self) -> None:
        """Wait until no channel and no bridge is left."""
        await until(lambda: not self.channels() and not self.bridges())


async def until(true: Callable[[], object], *, most: float = 15.0) -> None:
    """Wait for a condition that no event tells; fails after ``most`` seconds."""
    deadline = time.monotonic() + most
    while not true():
        assert time.monotonic() < deadline, f"it did not happen within {most} s"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def pushed(lab: Lab, node_document: NodeDocument) -> AsyncIterator[Pbx]:
    """A lab with the tenants of TENANTS; every call is ended at last."""
    pbx = Pbx(lab, await asyncio.to_thread(lambda: node_document(TENANTS, lab=lab)))
    pbx.write_far_contexts()
    await asyncio.to_thread(pbx.voxtractl, "dialplan", "push", "--yes")
    yield pbx
    for row in pbx.channels():
        pbx.ari("DELETE", f"channels/{row['id']}")
    await pbx.empty()


class Seen:
    """What a handler met: its result, and the one end of its call."""

    def __init__(self) -> None:
        self.call: asyncio.Future[CallSession] = asyncio.get_running_loop().create_future()
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.events: list[dict[str, Any]] = []

    async def ended(self) -> Ended:
        return await asyncio.wait_for((await self.call).wait_ended(), 15)

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    def ends(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "call_ended"]


@asynccontextmanager
async def serving(
    pbx: Pbx,
    handler: Callable[[CallSession], Awaitable[Any]],
    app_name: str = "voxtra-acme",
    **more: Any,
) -> AsyncIterator[tuple[VoxtraApp, Seen]]:
    """An app whose default handler is ``handler``; its result, or what it raised, is kept.

    Afterwards nothing of any call may be left, in Asterisk or in the app.
    """
    app = VoxtraApp(**{**pbx.account, "app_name": app_name, **more})
    seen = Seen()

    @app.default()
    async def default(call: CallSession) -> None:
        if not seen.call.done():
            seen.call.set_result(call)
        try:
            found = await handler(call)
        except Exception as exc:
            if not seen.result.done():
                seen.result.set_exception(exc)
            raise
        if not seen.result.done():
            seen.result.set_result(found)

    app.on_event(lambda event: seen.events.append(dict(event)))
    await app.start()
    hub = app._hubs[0]
    try:
        yield app, seen
    finally:
        await app.stop()
        seen.call.cancel()
        seen.result.cancel()
        if seen.result.done() and not seen.result.cancelled():
            seen.result.exception()  # seen by the test, or no matter
        await pbx.empty()
    assert left_over(app, hub) == {}
    assert len(seen.ends()) == seen.names().count("call_started") + seen.names().count("call_adopted")


def left_over(app: VoxtraApp, hub: Any) -> dict[str, Any]:
    """What an app that was stopped still holds of calls: nothing, or it leaks."""
    holds = {
        "calls": app.calls,
        "handlers": app._tasks,
        "sessions": hub.sessions,
        "table": dict(hub.table.live),
        "waits": hub.aux._coming,
        "own": hub.aux._calls,
        "tasks": hub._tasks,
        "sending": hub._sending,
    }
    return {name: held for name, held in holds.items() if held}


async def nothing(call: CallSession) -> None:
    await call.answer()
    await call.wait_ended()
