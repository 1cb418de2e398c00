"""Where a call is, and where it goes that nobody here takes.

    dialplan ──Stasis()──▶ an app of ours ──▶ the same app of another worker
                                          └──▶ the tenant's fallback, else the shared one, else hung up

Asterisk goes on to name the app that the dialplan sent a call to, so a call that is moved has a note (PLACE)
of the app it is in, and of the line of the dialplan that it came from. Over another line it has come into an
app anew, and the note is none of it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.runtime.auxiliary import is_auxiliary
from voxtractl.runtime.session import line_of
from voxtractl.runtime.sounds import tone_of

__all__ = ["AGAIN", "CALLED", "MOVED", "Place", "Places", "is_inside", "unmarked"]

log = logging.getLogger(__name__)

MOVED: Final = "voxtractl-moved"  # first Stasis argument of a call that came from a dead worker
# First of those of a call out, with its number: a process that finds one it did not begin knows it by that.
CALLED: Final = "voxtractl-called"
# Variable of a channel that was moved: the app it is in. In small letters no key of metadata makes this name.
PLACE: Final = "voxtra_app"
PATIENCE: Final = 2.0  # seconds for an answer about what another process has, or had
AGAIN: Final = 10.0  # seconds until it is asked again; twice as long each time


class Place(NamedTuple):
    """A channel that is in a Stasis app, and the arguments it came there with."""

    channel: Mapping[str, Any]
    app: str
    args: list[str]

    @property
    def line(self) -> str:
        """Where in the dialplan it came into the app."""
        return line_of(self.channel)


def unmarked(args: list[str]) -> list[str]:
    """Stasis arguments without ours."""
    return unmarked(args[1:]) if args[:1] in ([MOVED], [CALLED]) else args


def is_inside(channel: Mapping[str, Any]) -> bool:
    """It is in a Stasis app, and not elsewhere in the dialplan."""
    return bool((channel.get("dialplan") or {}).get("app_name") == "Stasis")


class Places:
    """``ask`` gets Asterisk's answer, from whatever loop; ``insist`` gets that of a request that may be sent
    twice, None when a resync will follow. The rest belongs to the loop of the hub."""

    def __init__(
        self,
        ari: ARIClient,
        *,
        ask: Callable[[Request], Awaitable[Answer]],
        insist: Callable[[Request], Awaitable[Answer | None]],
    ) -> None:
        self._ari, self._ask, self._insist = ari, ask, insist
        self._silent: dict[str, tuple[float, float]] = {}  # id → when to ask again, and how long after that

    async def ask_each(self, wanted: Iterable[tuple[str, Request]]) -> dict[str, Answer]:
        """The answers, by the id of the channel or bridge that each request is about. Raises AriError.

        While a process with media legs stands still Asterisk may hold the lock of one until the process is
        gone or goes on, and takes that lock on its way to others: whoever asks about a channel may wait, so
        nobody may ask over the websocket (measured: no event came, and no ping was answered). An id without
        an answer is missing, and left alone for a while: a request that is given up keeps one of Asterisk's
        HTTP sessions all the same, of which it has 100 by default.
        """
        now = monotonic()
        due = [(id, request) for id, request in wanted if self._silent.get(id, (now, 0.0))[0] <= now]
        slow = [request._replace(slow=True) for _, request in due]
        answers = await self._ari.ask_all(slow, patience=PATIENCE)
        told = {id: answer for (id, _), answer in zip(due, answers, strict=True) if answer.status}
        for id, request in due:
            _, pause = self._silent.pop(id, (now, AGAIN))
            if id not in told:
                log.warning("no answer to %s %s for %g s", request.method, request.path, PATIENCE)
                self._silent[id] = (monotonic() + pause, 2 * pause)
        return told

    async def of(self, channels: Iterable[Mapping[str, Any]]) -> list[Place]:
        """Those of these channels that are in a Stasis app, without the calls that Asterisk does not answer
        for. Raises AriError. What a call has of its own is never moved, and not asked."""
        inside = [row for row in channels if is_inside(row)]
        calls = [row["id"] for row in inside if not is_auxiliary(row["id"])]
        told = await self.ask_each((call_id, requests.get_variable(call_id, PLACE)) for call_id in calls)
        notes = {id: str(note.body["value"]) if note.status == 200 else "" for id, note in told.items()}
        return [
            _place(row, notes.get(row["id"], ""))
            for row in inside
            if row["id"] in notes or is_auxiliary(row["id"])
        ]

    async def bridges(self) -> list[Mapping[str, Any]]:
        """All bridges; none when Asterisk does not answer. Raises AriError."""
        told = await self.ask_each([("bridges", requests.bridges())])
        return list(told["bridges"].body) if "bridges" in told and told["bridges"].status == 200 else []

    async def was_moved(self, place: Place) -> bool:
        """Another worker has sent it here."""
        note = await self._insist(requests.get_variable(place.channel["id"], PLACE))
        told = note.body["value"] if note is not None and note.status == 200 else ""
        return bool(told == f"{place.app} {place.line}")

    async def move(self, place: Place, to: str, args: Sequence[str]) -> bool:
        """Give it to another app of this Asterisk."""
        call_id = place.channel["id"]
        await self._insist(requests.stop_playback(tone_of(call_id)))
        await self._insist(requests.set_variable(call_id, PLACE, f"{to} {place.line}"))
        answer = await self._insist(requests.move(call_id, to, args))
        if answer is not None and answer.status < 300:
            return True
        await self._insist(requests.set_variable(call_id, PLACE, f"{place.app} {place.line}"))
        return False

    async def to_fallback(self, call_id: str, slug: str | None) -> None:
        """The dialplan's own fallback of this tenant, else an honest cause. A call stays where it is when the
        connection is lost: it is found there afterwards."""
        for name in (slug, naming.SHARED):
            if name is None:
                continue
            context = naming.fallback_context(name)
            answer = await self._insist(_exists(call_id, context, "s"))
            if answer is None:
                return
            if _is_one(answer):
                await self._insist(requests.continue_in_dialplan(call_id, context, "s", 1))
                return
        await self._insist(requests.hangup(call_id, "congestion"))

    async def exists(self, call_id: str, context: str, extension: str, priority: int = 1) -> bool:
        """True when the dialplan has it; asked over a channel that is up, from whatever loop."""
        return _is_one(await self._ask(_exists(call_id, context, extension, priority)))


def _exists(call_id: str, context: str, extension: str, priority: int = 1) -> Request:
    return requests.get_variable(call_id, f"DIALPLAN_EXISTS({context},{extension},{priority})")


def _is_one(answer: Answer) -> bool:
    return answer.status == 200 and bool(answer.body.get("value") == "1")


def _place(channel: Mapping[str, Any], note: str) -> Place:
    app, *args = channel["dialplan"].get("app_data", "").split(",")
    moved_to, _, line = note.partition(" ")
    return Place(channel, moved_to if line == line_of(channel) else app, args)
