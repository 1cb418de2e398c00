"""What Asterisk says there is, as values: channels, bridges, playbacks, stored recordings. Pure.

Each is made from the JSON of an answer or an event by ``of``. Fields Asterisk does not send are empty, those
we do not know are passed over: a newer Asterisk may send more, an older one less.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

__all__ = ["Bridge", "Channel", "Playback", "StoredRecording"]


class Channel(NamedTuple):
    """A leg of a call. ``context``, ``exten`` and ``priority`` are where the dialplan stands; in Stasis
    ``app`` is ``Stasis`` and ``app_data`` what it was given: the Stasis app, a comma, the arguments."""

    id: str
    name: str = ""  # PJSIP/acme-00000001
    state: str = ""  # Down, Rsrved, OffHook, Dialing, Ring, Ringing, Up, Busy …
    caller_number: str = ""
    caller_name: str = ""
    connected_number: str = ""
    context: str = ""
    exten: str = ""
    priority: int = 0
    app: str = ""  # the dialplan application that runs
    app_data: str = ""
    created: str = ""  # as Asterisk writes it, with its own zone: 2026-11-24T14:57:21.123+0000
    language: str = ""
    accountcode: str = ""
    protocol_id: str = ""  # of SIP the Call-ID, which the carrier knows as well
    connected_name: str = ""

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Self:
        caller, connected, dialplan = (_part(json, name) for name in ("caller", "connected", "dialplan"))
        return cls(
            _text(json, "id"),
            _text(json, "name"),
            _text(json, "state"),
            _text(caller, "number"),
            _text(caller, "name"),
            _text(connected, "number"),
            _text(dialplan, "context"),
            _text(dialplan, "exten"),
            _number(dialplan, "priority"),
            _text(dialplan, "app_name"),
            _text(dialplan, "app_data"),
            _text(json, "creationtime"),
            _text(json, "language"),
            _text(json, "accountcode"),
            _text(json, "protocol_id"),
            _text(connected, "name"),
        )


class Bridge(NamedTuple):
    """Channels that hear each other. ``channels`` are their ids."""

    id: str
    name: str = ""
    type: str = ""  # mixing or holding
    technology: str = ""  # simple_bridge, softmix …
    creator: str = ""  # Stasis, or the application that made it
    channels: tuple[str, ...] = ()
    created: str = ""
    bridge_class: str = ""  # base, stasis …

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Self:
        channels = json.get("channels")
        return cls(
            _text(json, "id"),
            _text(json, "name"),
            _text(json, "bridge_type"),
            _text(json, "technology"),
            _text(json, "creator"),
            tuple(str(one) for one in channels) if isinstance(channels, list) else (),
            _text(json, "creationtime"),
            _text(json, "bridge_class"),
        )


class Playback(NamedTuple):
    """A sound that was asked for. ``target`` is what it is played to: ``channel:ID`` or ``bridge:ID``."""

    id: str
    media: str = ""
    target: str = ""
    state: str = ""  # queued, playing, paused, continuing, done, failed, cancelled
    language: str = ""

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Self:
        return cls(
            _text(json, "id"),
            _text(json, "media_uri"),
            _text(json, "target_uri"),
            _text(json, "state"),
            _text(json, "language"),
        )


class StoredRecording(NamedTuple):
    """A recording that is finished and lies on the node's disk."""

    name: str
    format: str = ""

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Self:
        return cls(_text(json, "name"), _text(json, "format"))


def _text(json: Mapping[str, Any], name: str) -> str:
    value = json.get(name)
    return value if isinstance(value, str) else ""


def _number(json: Mapping[str, Any], name: str) -> int:
    value = json.get(name)
    return value if isinstance(value, int) else 0


def _part(json: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = json.get(name)
    return value if isinstance(value, dict) else {}
