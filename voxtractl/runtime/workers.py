"""One of several runtime processes at a node: who of them lives, and who has the calls of one that does not.

    every BEAT: our sign of life ─▶ Asterisk ─▶ the signs of the others
    a sign that stays the same for DEAD_AFTER ─▶ dead ─▶ its heir moves its calls

The heir is the next number that lives and takes calls; when all drain, one of those, which sends them to
their fallback. A dead worker has one heir, so nobody moves a call twice. A call that is moved comes as a
StasisStart that says so; what it had of its own ends. Who lives, and who is whose heir, follows from the
signs and the time alone.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.errors import AriError
from voxtractl.runtime.auxiliary import is_auxiliary
from voxtractl.runtime.hub import Hub
from voxtractl.runtime.places import MOVED, Place
from voxtractl.runtime.sounds import tone_of

__all__ = ["BEAT", "Sign", "Worker", "Workers", "alive", "heirs", "is_due"]

log = logging.getLogger(__name__)

BEAT: Final = 1.0  # seconds between a worker's signs of life
DEAD_AFTER: Final = 5.0  # seconds without one until its calls are moved
LATE_AFTER: Final = 3.0  # seconds without one until we ask before we end a call: it may have been moved
GONE_AFTER: Final = 60.0  # seconds without one until its calls are looked for less often
INHERIT_EVERY: Final = 10.0  # seconds between such looks
LOOKS: Final = 60  # whether the sounds of a call have ended; after that at another time
LOOK_EVERY: Final = 0.5  # seconds between them
MOVES: Final = 16  # calls at once; each may keep a connection for the length of a sound
ALIVE: Final = "VOXTRA_WORKER_ALIVE"
HEIR: Final = "VOXTRA_WORKER_HEIR"


@dataclass(frozen=True, slots=True)
class Worker:
    """``number`` of ``count`` runtime processes; 0 of 1 means all apps are served here."""

    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life of a worker and when it came; ``""`` when none was seen since then."""

    text: str
    since: float

    @property
    def up(self) -> bool:
        """It takes calls."""
        return self.text.endswith(" up")


def alive(signs: Mapping[int, Sign], now: float) -> set[int]:
    """The numbers that live: their sign is new enough."""
    return {number for number, sign in signs.items() if now - sign.since < DEAD_AFTER}


def heirs(signs: Mapping[int, Sign], now: float) -> dict[int, int]:
    """The dead workers, and who has the calls of each; nobody when all are dead."""
    living = alive(signs, now)
    able = {number for number in living if signs[number].up} or living
    dead = signs.keys() - living if living else ()
    return {number: min(able, key=lambda other: (other < number, other)) for number in dead}


def is_due(sign: Sign, looked: float | None, now: float) -> bool:
    """To look for the calls of a dead worker: that is a question for each call of the node. One that stands
    still gets new ones; one that was never there, or is long gone, does not."""
    if sign.text and now - sign.since < GONE_AFTER:
        return True
    return looked is None or now - looked >= INHERIT_EVERY


class Workers:
    """``apps`` are our Stasis apps → the tenants' apps, without a worker's number; ``go`` does something
    beside everything else."""

    def __init__(
        self,
        worker: Worker,
        hub: Hub,
        apps: Mapping[str, str],
        go: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._own, self._count = worker.number, worker.count
        self._hub, self._apps, self._go = hub, apps, go
        self._shown = 0  # signs of life so far
        self._steady = monotonic()  # since when they come in time
        self._signs: dict[int, Sign] = {}  # of all, our own too
        self._looked: dict[int, float] = {}  # when the calls of a dead one were looked for
        self._inheriting: set[int] = set()  # dead ones whose calls are being looked for
        self._moving: set[str] = set()  # calls of dead ones that are being moved here
        self._moves = asyncio.Semaphore(MOVES)

    async def begin(self) -> None:
        """Show the node that we come, before we adopt what is there: from now on nobody moves that. Raises
        AriError."""
        await self._show("starting")

    async def beat(self) -> None:
        """Show the node that we live, and take over the calls there of those whose heir we are."""
        try:
            await self._show("draining" if self._hub.draining else "up")
            await self._see(*(number for number in range(1, self._count + 1) if number != self._own))
            now = monotonic()
            for dead, heir in heirs(self._signs, now).items():
                if heir == self._own and is_due(self._signs[dead], self._looked.get(dead), now):
                    self._looked[dead] = now
                    if dead not in self._inheriting:
                        self._inheriting.add(dead)
                        self._go(self._inherit(dead))
        except AriError as exc:
            log.debug("no sign of life at %s: %s", self._hub.journal.node, exc)

    def elsewhere(self, app: str) -> list[str]:
        """The same app at the workers that live and take calls."""
        living = alive(self._signs, monotonic()) - {self._own}
        return [
            naming.worker_app(self._apps[app], other, self._count)
            for other in sorted(living)
            if app in self._apps and self._signs[other].up
        ]

    def in_time(self) -> bool:
        """No other worker has taken us for dead: our signs of life came in time, and for a while. One that
        stood still does not know yet that its calls are elsewhere."""
        now = monotonic()
        return now - self._steady >= DEAD_AFTER and not self._is_late(now)

    async def _show(self, word: str) -> None:
        self._shown += 1
        text = f"{self._shown} {word}"
        await self._hub.ari.request(requests.set_global(f"{ALIVE}_{self._own}", text))
        now = monotonic()
        if self._is_late(now):
            self._steady = now
        self._signs[self._own] = Sign(text, now)

    def _is_late(self, now: float) -> bool:
        return self._own not in self._signs or now - self._signs[self._own].since >= LATE_AFTER

    async def _see(self, *others: int) -> None:
        answers = await self._hub.ari.ask_all([requests.get_global(f"{ALIVE}_{other}") for other in others])
        now = monotonic()
        for other, answer in zip(others, answers, strict=True):
            text = str(answer.body.get("value", "")) if answer.status == 200 else ""
            if text != self._signs.setdefault(other, Sign("", now)).text:
                self._signs[other] = Sign(text, now)

    async def _inherit(self, dead: int) -> None:
        """Begin to move its calls here. In a task of its own, as each move: who waits for something and gives
        no sign of life meanwhile is taken for dead too."""
        theirs = {naming.worker_app(base, dead, self._count): ours for ours, base in self._apps.items()}
        try:
            channels = await self._hub.ari.request(requests.channels())
            await self._tidy(channels, set(theirs))
            calls = [
                row for row in channels if not is_auxiliary(row["id"]) and not self._hub.call_of(row["id"])
            ]
            for place in await self._hub.places.of(calls):
                call_id = place.channel["id"]
                if place.app in theirs and call_id not in self._moving:
                    self._moving.add(call_id)
                    self._go(self._move(place, theirs[place.app], dead))
        except AriError as exc:
            log.debug("the calls of worker %d are not looked for yet: %s", dead, exc)
        finally:
            self._inheriting.discard(dead)

    async def _tidy(self, channels: Iterable[Mapping[str, Any]], theirs: set[str]) -> None:
        """End what the calls of these apps had of their own. Bridges too: a call that is moved stays in its
        bridge (measured), and would go on to hear who was there."""
        own = [row["id"] for row in channels if is_auxiliary(row["id"]) and _app_of(row) in theirs]
        places = self._hub.places
        await places.ask_each((aux, requests.hangup(aux, "normal")) for aux in own)
        bridges = [row for row in await places.bridges() if is_auxiliary(row["id"]) and row["name"] in theirs]
        left = [row["id"] for row in bridges if not any(is_auxiliary(one) for one in row["channels"])]
        await places.ask_each((bridge, requests.destroy_bridge(bridge)) for bridge in left)

    async def _move(self, place: Place, to: str, dead: int) -> None:
        """It takes as long as the sound that the call hears. What cannot be done now is done at another
        look."""
        call_id = place.channel["id"]
        try:
            async with self._moves:
                if await self._waits(call_id, dead):
                    moved = await self._hub.places.move(place, to, [MOVED, *place.args])
                    log.warning("call %s of worker %d %s", call_id, dead, "moved" if moved else "not moved")
        except AriError as exc:
            log.debug("call %s of worker %d is not moved yet: %s", call_id, dead, exc)
        finally:
            self._moving.discard(call_id)

    async def _waits(self, call_id: str, dead: int) -> bool:
        """When its sounds have ended: whether the call waits for us still. Its worker may be back, and have
        it: then it is not ours."""
        await self._hub.ari.ask(requests.stop_playback(tone_of(call_id)))
        if not await self._is_quiet(call_id):
            return False
        await self._see(dead)
        return dead not in alive(self._signs, monotonic())

    async def _is_quiet(self, call_id: str) -> bool:
        """Wait for the end of its sounds, as long as an answer may take. Asterisk sets a variable of a
        channel after its sounds; before 20.20 and 22.10 it answers at once, so we look until it is set."""
        name, value = f"{HEIR}_{self._own}", uuid4().hex
        answer = await self._hub.ari.ask(requests.set_variable(call_id, name, value))
        look = requests.get_variable(call_id, name)._replace(slow=True)  # it may wait: Places.ask_each
        for _ in range(LOOKS):
            if answer.status >= 300 and answer.message != requests.NOT_SET:
                return True  # it is gone, and cannot be moved
            answer = await self._hub.ari.ask(look)
            if answer.status == 200 and answer.body["value"] == value:
                return True
            await asyncio.sleep(LOOK_EVERY)
        return False


def _app_of(channel: Mapping[str, Any]) -> str:
    """The Stasis app it came to."""
    return str((channel.get("dialplan") or {}).get("app_data", "")).partition(",")[0]
