"""What happened to calls, as one JSON object a line; the vocabulary stands in ``EVENTS`` and nowhere else.

Whoever wants the events gives a sink, a function of the object: a file of ``voxtractl run --events``, the
counters of ``/metrics``. A sink that fails is told to the log and does not touch the call. Without a sink an
event costs nothing. The journal may be written to from several threads.
"""

import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from typing import Any, Final

__all__ = ["EVENTS", "Journal", "JsonLines", "Sink"]

log = logging.getLogger(__name__)

Sink = Callable[[Mapping[str, Any]], object]

# event → the fields it has beside those of every event (docs/events.md is made from this)
EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "call_started": (),
    "call_answered": (),
    "call_adopted": (),
    "dtmf": ("digit",),
    "playback_failed": ("media",),
    "transferred": ("to",),
    "handler_failed": ("error",),
    "call_ended": (
        "disposition",
        "cause",
        "tech_cause",
        "ended_by",
        "seconds",
        "talk_seconds",
        "queue_status",
        "detail",
    ),
}


class Journal:
    """Sinks, and the node whose calls are told."""

    def __init__(self, node: str | None = None) -> None:
        self.node = node
        self.sinks: list[Sink] = []

    def write(self, event: str, call: "Mapping[str, Any]", **more: Any) -> None:
        """Tell one event; ``call`` holds call_id, tenant, direction, did and caller."""
        if not self.sinks:
            return
        if EVENTS[event] != tuple(more):
            raise ValueError(f"{event} has the fields {EVENTS[event]}, not {tuple(more)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {"event": event, "time": now, "node": self.node, **call, **more}
        for sink in self.sinks:
            try:
                sink(told)
            except Exception:  # whoever listens must not harm the call
                log.exception("an event could not be told: %s", event)


FOREIGN: Final = ("error", "detail")  # fields with words of a handler's exception
WORDS_MAX: Final = 2000  # characters of them: the log has them all
WAITING_MAX: Final = 50_000  # events that wait for a slow disk or reader: some seconds of a full Asterisk
FLUSH: Final = 2.0  # seconds for them at the end


class JsonLines:
    """A sink that appends one JSON object a line to a file, "-" for standard output.

    A thread writes, so that a full disk or a reader that sleeps holds up no call. What cannot be written is
    lost, and the log says so and how many. A line that was written in part is finished later; in another
    file, or by another process, a new one begins. ``clean`` takes the secrets out of what a handler has said.
    Raises OSError when the file cannot be opened: ENXIO when it is a pipe that nobody reads.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.clean: Callable[[str], str] = str
        self._file = self._open()
        self._events: Queue[Mapping[str, Any] | None] = Queue(WAITING_MAX)  # None wakes the thread only
        self._rest = _line_end(self._file, place)  # what is to be written next
        self._begun = b""  # the line whose end may be in that
        self.lost = 0  # events that could not be written, since it last could be
        self._moved = self._ends = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def __call__(self, event: Mapping[str, Any]) -> None:
        try:
            self._events.put_nowait(event)
        except Full:
            self._lose("they come faster than they are taken")

    def reopen(self) -> None:
        """Go on in a new file of the name: the old one was moved away. Standard output cannot be."""
        self._moved = self.place != "-"
        self._wake()

    def close(self) -> None:
        """Write what waits, unless that takes longer than ``FLUSH``; tell how many are lost."""
        self._ends = True
        self._wake()
        self._thread.join(FLUSH)
        with self._events.mutex:
            waiting = sum(event is not None for event in self._events.queue)
        if lost := self.lost + sum(map(bool, self._rest.splitlines())) + waiting:
            log.warning("%s: %d events were lost at the end", self.place, lost)

    def _wake(self) -> None:
        with suppress(Full):  # then it does not sleep
            self._events.put_nowait(None)

    def _open(self) -> int:
        if self.place == "-":
            return os.dup(1)
        # O_NONBLOCK for the opening only: that of a pipe would wait for its reader.
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        file = os.open(self.place, how, 0o666)
        os.set_blocking(file, True)
        return file

    def _run(self) -> None:
        while not (self._ends and self._events.empty()):
            event = self._events.get()
            if self._moved:
                self._moved = False
                self._reopen()
            self._write(b"" if event is None else _line(event, self.clean))
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        self._rest += line
        if not self._rest:
            return
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._file, self._rest) :]
        except OSError as exc:
            # A line that has begun is finished later; one that has not is lost.
            if len(self._rest) < len(line):
                self._begun = line
            elif line:
                self._rest = self._rest[: -len(line)]
                self._lose((exc.strerror or str(exc)).lower())
            return
        if self.lost and self._events.qsize() < WAITING_MAX // 2:
            log.warning("%s: events are written again; %d were lost", self.place, self.lost)
            self.lost = 0

    def _lose(self, why: str) -> None:
        if not self.lost:
            log.error("%s: events are lost: %s", self.place, why)
        self.lost += 1

    def _reopen(self) -> None:
        try:
            new = self._open()
        except OSError as exc:
            log.warning("%s: cannot be opened again, the old file stays in use: %s", self.place, exc.strerror)
            return
        os.close(self._file)
        self._file = new
        # What was written of a line is in the old file, and nobody puts them together.
        self._rest = _line_end(new, self.place) + (self._begun if self._rest.strip() else b"")


def _line(event: Mapping[str, Any], clean: Callable[[str], str]) -> bytes:
    """b"" when it cannot be told: a handler may have given its call a number that is none."""
    try:
        event = {**event, **{key: clean(event[key])[:WORDS_MAX] for key in FOREIGN if key in event}}
        # What is no Unicode, of a file's name in a handler's error, say, is escaped as JSON has it.
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace") + b"\n"
    except Exception:
        log.exception("an event could not be told: %s", event.get("event"))
        return b""


def _line_end(file: int, place: str) -> bytes:
    """What ends the last line of a file when nothing does: a disk was full, or a machine went down."""
    known = os.fstat(file)
    if place == "-" or not stat.S_ISREG(known.st_mode) or not known.st_size:
        return b""
    with suppress(OSError), Path(place).open("rb") as written:
        written.seek(-1, os.SEEK_END)
        return b"" if written.read() == b"\n" else b"\n"
    return b""
