"""Requests to ARI as values: pure builders and readers of answers; ``client.py`` sends them.

The label oracle is the proof of this project. ``POST /channels`` looks a label up before it dials and checks
the format before it requests a channel (Asterisk, ``res/ari/resource_channels.c``,
``ari_channels_handle_originate_with_id``), so an originate with a label and a format that cannot exist tells
whether exactly this label is live: no channel, no event, nothing dialled, 0.14 ms.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from voxtractl import naming

__all__ = [
    "MODULES",
    "PROBE",
    "Answer",
    "Request",
    "aor",
    "applications",
    "device_state",
    "endpoint",
    "endpoint_answer",
    "info",
    "label_answer",
    "mark",
    "mark_answer",
    "module",
    "modules",
    "probe_label",
    "reload_module",
]

PROBE: Final = "voxtractl-probe"  # the format that cannot exist

# The module that reads each kind.
MODULES: Final[Mapping[str, str]] = {
    "extensions": "pbx_config.so",
    "pjsip": "res_pjsip.so",
    "queues": "app_queue.so",
}


class Request(NamedTuple):
    """``path`` is below ``/ari``, already percent-encoded; ``query`` is not."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None


class Answer(NamedTuple):
    """Status and JSON body (None when there is none). ``message`` is Asterisk's own word on an error."""

    status: int
    body: Any = None

    @property
    def message(self) -> str:
        if isinstance(self.body, dict):
            return str(self.body.get("message") or self.body.get("error") or "")
        return ""


def info() -> Request:
    return Request("GET", "/asterisk/info")


def modules() -> Request:
    return Request("GET", "/asterisk/modules")


def module(name: str) -> Request:
    return Request("GET", f"/asterisk/modules/{quote(name, safe='')}")


def applications() -> Request:
    return Request("GET", "/applications")


def reload_module(name: str) -> Request:
    """Synchronous: when 204 comes back the new configuration is in use, or the old one was kept silently."""
    return Request("PUT", f"/asterisk/modules/{quote(name, safe='')}")


def probe_label(context: str, extension: str, label: str) -> Request:
    """Ask whether priority ``label`` of this extension is live. Needs a read/write ARI user."""
    return Request(
        "POST",
        "/channels",
        (
            ("endpoint", "voxtractl/probe"),
            ("context", context),
            ("extension", extension),
            ("label", label),
            ("formats", PROBE),
        ),
    )


def label_answer(answer: Answer) -> bool | None:
    """True: live. False: not live. None: an answer the oracle does not give."""
    if answer.status == 400 and PROBE in answer.message:
        return True
    if answer.status == 404 and "label" in answer.message.lower():
        return False
    return None


def endpoint(name: str) -> Request:
    """The PJSIP endpoint as Asterisk holds it, from a file or not; 404 when it was not loaded."""
    return Request("GET", f"/asterisk/config/dynamic/res_pjsip/endpoint/{quote(name, safe='')}")


def aor(name: str) -> Request:
    return Request("GET", f"/asterisk/config/dynamic/res_pjsip/aor/{quote(name, safe='')}")


def endpoint_answer(answer: Answer) -> bool | None:
    return {200: True, 404: False}.get(answer.status)


def device_state(name: str) -> Request:
    """A device's state. What app_queue says of its members is the last it told, not what is true now."""
    return Request("GET", f"/deviceStates/{quote(name, safe='')}")


def mark(kind: str, expected: str) -> Request:
    """Ask whether all files of a kind were read: the mark that the end file hands to the top file."""
    match kind:
        case "extensions":
            return probe_label(naming.LOADED_CONTEXT, "rev", expected)
        case "pjsip":
            return aor(naming.LOADED_CONTEXT)
        case "queues":
            return device_state(f"Queue:voxtractl-{expected}_pause_Local/{expected}@{naming.END_CONTEXT}")
        case _:
            raise ValueError(f"no kind {kind!r}")


def mark_answer(kind: str, expected: str, answer: Answer) -> bool | None:
    """True: the mark is live. False: it is not. None: an answer that says neither."""
    if kind == "extensions":
        return label_answer(answer)
    if kind == "pjsip":
        if answer.status == 404:
            return False
        if answer.status == 200 and isinstance(answer.body, list):
            return {"attribute": "voicemail_extension", "value": expected} in answer.body
        return None
    if answer.status == 200 and isinstance(answer.body, dict):
        return bool(answer.body.get("state") == "INUSE")  # its only member is paused while it is loaded
    return None
