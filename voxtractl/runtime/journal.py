"""What happened to calls, as one JSON object a line; the vocabulary stands in ``EVENTS`` and nowhere else.

Whoever wants the events gives a sink, a function of the object: a file of ``voxtractl run --events``, the
counters of ``/metrics``. A sink that fails is told to the log and does not touch the call. Without a sink an
event costs nothing. The journal may be written to from several threads.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["EVENTS", "Journal", "Sink"]

log = logging.getLogger(__name__)

Sink = Callable[[Mapping[str, Any]], None]

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
