"""The lab's Asterisk with tenants on it, and far sides to call them from: Local channels whose other half
runs a context of ours. What is asked here goes over plain HTTP, never through the code under test."""

import asyncio
import json
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import uuid4

from voxtractl.lab import Lab

__all__ = ["ACME", "BETA", "FAR", "TENANTS", "Far", "Pbx", "until"]

ACME, BETA = "+265999000001", "+265999000002"

TENANTS = f"""
[tenants.acme]
name = "Acme Ltd"
dids = ["{ACME}"]
[tenants.acme.trunk]
host = "127.0.0.9"
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

    def write_far_contexts(self) -> None:
        top = self.lab.config_dir / "extensions.conf"
        text = top.read_text()
        if "[far-wait]" not in text:
            mark = "; >>> voxtractl"
            before, found, after = text.partition(mark)
            top.write_text(f"{before}{FAR}\n{found}{after}")
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
        self, number: str = ACME, far: str = "far-wait", exten: str = "s", caller: str = "+265700000001"
    ) -> Far:
        """Call a number of a tenant; the far side runs ``far`` as soon as the call is answered."""
        channel = uuid4().hex
        status, text = self.ari(
            "POST",
            f"channels/{channel}",
            endpoint=f"Local/{number}@from-trunk/n",
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

    async def empty(self) -> None:
        """Wait until no channel and no bridge is left."""
        await until(lambda: not self.channels() and json.loads(self.ari("GET", "bridges")[1]) == [])


async def until(true: Callable[[], object], *, most: float = 15.0) -> None:
    """Wait for a condition that no event tells; fails after ``most`` seconds."""
    deadline = time.monotonic() + most
    while not true():
        assert time.monotonic() < deadline, f"it did not happen within {most} s"
        await asyncio.sleep(0.02)
