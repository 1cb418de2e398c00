"""Our half of the calls bench: ``python -m tests.bench.calls_side``, with the account as JSON in stdin.

What happens to a call depends on its number, as callers' numbers do with an operator's tenants. A byte goes
to stdout for each call a handler has done with; the last line, at SIGTERM, counts the events of all calls.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from itertools import count, cycle
from typing import Any

from voxtractl.errors import OriginateFailed
from voxtractl.runtime.app import VoxtraApp
from voxtractl.runtime.event_loop import new_event_loop
from voxtractl.runtime.session import CallSession

__all__ = ["main"]

HOUR = 3600.0  # longer than any bench


class _Oops(Exception):
    """What a handler of ours raises."""


async def main(url: str, user: str, password: str, app: str, *, count: bool = False) -> None:
    """``count``: tell at the end what became of the calls; the peers do not, where their CPU is measured."""
    serving = VoxtraApp(ari_url=url, ari_user=user, ari_password=password, app_name=app)
    _routes(serving)
    seen: dict[str, Counter[str]] = {"call_started": Counter(), "call_ended": Counter()}
    by: Counter[str] = Counter()

    def sink(event: Any) -> None:
        if event["event"] in seen:
            seen[event["event"]][event["call_id"]] += 1
        if event["event"] == "call_ended":
            by[f"{event['disposition']} by {event['ended_by']}"] += 1

    if count:
        serving.on_event(sink)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await serving.start()
    await told.wait()
    await serving.stop()
    started, ended = seen["call_started"], seen["call_ended"]
    answer = {
        "started": len(started),
        "ended": ended.total(),
        "ended_once": sum(ended[call] == 1 for call in started),
        "strange": sum(times > 1 or not started[call] for call, times in ended.items()),
        "by": dict(by),
    }
    print(f"\n{json.dumps(answer)}", flush=True)


def _routes(app: VoxtraApp) -> None:
    @app.default()
    async def take(call: CallSession) -> None:
        await call.answer()
        await call.hangup()
        _done()

    @app.route(extension="500")
    async def wait_for_digits(call: CallSession) -> None:
        await call.answer()
        _done()
        await call.listen_dtmf(4, HOUR)

    @app.route(extension="601")
    async def return_(call: CallSession) -> None:
        await call.answer()

    @app.route(extension="602")
    async def stay(call: CallSession) -> None:
        await call.answer()
        await call.wait_ended()

    @app.route(extension="603")
    async def fail(call: CallSession) -> None:
        await call.answer()
        raise _Oops

    @app.route(extension="604")
    async def refuse(call: CallSession) -> None:
        await call.hangup("busy")

    @app.route(extension="605")
    async def hand_back(call: CallSession) -> None:
        await call.answer()
        await call.continue_in_dialplan("bench-far", "soon")

    @app.route(extension="606")
    async def ring(call: CallSession) -> None:
        await call.ring()
        await call.wait_ended()

    fars = cycle(("wait", "busy", "congestion", "nobody-there", "rings"))

    @app.route(extension="607")
    async def call_out(call: CallSession) -> None:
        await call.answer()
        try:
            other = await app.originate(f"Local/{next(fars)}@bench-far", timeout=1.0)
        except OriginateFailed:
            return
        await other.hangup()

    numbers = count()

    @app.route(extension="608")
    async def race(call: CallSession) -> None:
        """The caller hangs up while we do."""
        await call.answer()
        await asyncio.sleep(0.2 + next(numbers) % 10 * 0.001)
        await call.hangup()


def _done() -> None:
    os.write(1, b".")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(**json.load(sys.stdin)))
