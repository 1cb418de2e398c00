"""Requests to ARI as values: pure builders and readers of answers; ``client.py`` sends them.

The label oracle is the proof of this project. ``POST /channels`` looks a label up before it dials and checks
the format before it requests a channel (Asterisk, ``res/ari/resource_channels.c``,
``ari_channels_handle_originate_with_id``), so an originate with a label and a format that cannot exist tells
whether exactly this label is live: no channel, no event, nothing dialled, 0.14 ms.

What comes from outside is checked here, before anything is sent: a dialled number, an endpoint, the name of
a variable. Free text goes into the JSON body where Asterisk takes it from there: the request line of HTTP
ends at 4096 bytes, a body at 40,960, a message over the websocket at 65,535.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from math import ceil
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote

from voxtractl import naming
from voxtractl.errors import UsageFault
from voxtractl.settings import LONGEST

__all__ = [
    "HANGUP_REASONS",
    "MODULES",
    "NOT_SET",
    "PROBE",
    "Answer",
    "Request",
    "add_to_bridge",
    "answer",
    "aor",
    "app_args",
    "application",
    "applications",
    "bridge",
    "bridges",
    "cancel_recording",
    "channel",
    "channels",
    "continue_in_dialplan",
    "control_playback",
    "create",
    "create_bridge",
    "delete_stored",
    "destroy_bridge",
    "device_state",
    "dial",
    "dialled_endpoint",
    "dialled_number",
    "dtmf",
    "endpoint",
    "endpoint_answer",
    "event_filter",
    "external_media",
    "get_global",
    "get_variable",
    "hangup",
    "hold",
    "info",
    "label_answer",
    "mark",
    "mark_answer",
    "module",
    "modules",
    "moh_start",
    "moh_stop",
    "move",
    "mute",
    "originate",
    "ping",
    "play",
    "play_bridge",
    "playback",
    "probe_label",
    "record",
    "recording",
    "redirect",
    "reload_module",
    "remove_from_bridge",
    "ring",
    "ring_stop",
    "set_global",
    "set_variable",
    "shown_caller",
    "silence_start",
    "silence_stop",
    "snoop",
    "stop_playback",
    "stop_recording",
    "stored",
    "stored_file",
    "subscribe",
    "unhold",
    "unmute",
    "unsubscribe",
    "user_event",
    "variables",
]

NOT_SET: Final = "Provided variable was not found"  # a 404 of res/ari/resource_channels.c
MESSAGE_MAX: Final = 500  # characters of what an answer says
PROBE: Final = "voxtractl-probe"  # the format that cannot exist

# The module that reads each kind.
MODULES: Final[Mapping[str, str]] = {
    "extensions": "pbx_config.so",
    "pjsip": "res_pjsip.so",
    "queues": "app_queue.so",
}


class Request(NamedTuple):
    """``path`` is below ``/ari``, already percent-encoded; ``query`` is not.

    ``slow``: Asterisk may take its time to answer, and over the websocket all that follow would wait with it
    and no ping be answered; so it goes over HTTP. A reload held the next one for 92 ms; ``answer``,
    ``set_variable`` and bridging wait until the sounds of their channel have ended (measured: an endless tone
    holds them for ever); a function of the dialplan may ask a server. Or the answer is bytes, which the
    websocket does not carry, or a list that grows: a message of 490 kB, that of 1,200 channels, is Asterisk's
    end (docs/decisions/0007).
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, Any] | None = None
    slow: bool = False

    def json(self) -> str:
        """The body as text; raises TypeError or ValueError for what is no JSON."""
        return dumps(self.body, ensure_ascii=False, allow_nan=False)

    def unwritable(self, reason: Exception) -> UsageFault:
        """The fault of a request that no bytes can carry."""
        return _unwritable(f"what {self.method} {self.path} is given", reason)


class Answer(NamedTuple):
    """Status and JSON body (None when there is none). ``message`` is Asterisk's own word on an error.

    ``content`` holds the bytes of a body that is not JSON, such as a recording.
    """

    status: int
    body: Any = None
    content: bytes = b""

    @property
    def message(self) -> str:
        """What it says, on one line and not without end: it is shown on terminals, whoever answers."""
        if not isinstance(self.body, dict):
            return ""
        text = str(self.body.get("message") or self.body.get("error") or "")[:MESSAGE_MAX]
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def info() -> Request:
    return Request("GET", "/asterisk/info")


def ping() -> Request:
    return Request("GET", "/asterisk/ping")


def modules() -> Request:
    return Request("GET", "/asterisk/modules")


def module(name: str) -> Request:
    return Request("GET", f"/asterisk/modules/{_quoted(name)}")


def get_global(name: str) -> Request:
    """A global variable of the dialplan; "" when it is not set."""
    query = _query(("variable", _variable_name(name)))
    return Request("GET", "/asterisk/variable", query, slow=_may_take_time(name))


def set_global(name: str, value: object) -> Request:
    query = _query(("variable", _variable_name(name)), ("value", _variable_value(name, value)))
    return Request("POST", "/asterisk/variable", query, slow=_may_take_time(name))


def reload_module(name: str) -> Request:
    """Synchronous: when 204 comes back the new configuration is in use, or the old one was kept silently."""
    return Request("PUT", f"/asterisk/modules/{_quoted(name)}", slow=True)


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


# --- what may be said -------------------------------------------------------------------------------------

HANGUP_REASONS: Final = (
    "normal",
    "busy",
    "congestion",
    "no_answer",
    "timeout",
    "rejected",
    "unallocated",
    "normal_unspecified",
    "number_incomplete",
    "codec_mismatch",
    "interworking",
    "failure",
    "answered_elsewhere",
)

Direction = Literal["both", "in", "out"]
Spied = Literal["none", "both", "in", "out"]
Operation = Literal["restart", "pause", "unpause", "reverse", "forward"]
IfExists = Literal["fail", "overwrite", "append"]
TerminateOn = Literal["none", "any", "*", "#"]

_EXTENSION: Final = re.compile(r"[0-9A-Za-z+*#][0-9A-Za-z+*#._-]{0,78}")  # of 80 and more none ever matches
_CONTEXT: Final = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,78}")
_ENDPOINT: Final = re.compile(r"[0-9A-Za-z_]+/[^&\s]+")
_VARIABLE: Final = re.compile(
    r"(__|_)?[A-Za-z][A-Za-z0-9_]*"  # inherited once or for ever
    r"|[A-Z][A-Z0-9_]*\([A-Za-z0-9 _,.:;/@+*-]*\)"  # a function of the dialplan
)
_SHOWN: Final = re.compile(r"[^\x00-\x1f\x7f]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DIGITS: Final = re.compile(r"[0-9A-Da-d*#wWfF]+")  # w and W: pauses; f and F: hook flash


def dialled_number(text: str) -> str:
    """The extension as it is, or UsageFault for what is none.

    Strict, because a dialplan may hand it to Dial: ``5&Local/777`` under ``_X.`` rang two phones (measured).
    """
    return _checked(
        _EXTENSION,
        text,
        "extension: digits, letters, + * # . _ -, at most 79",
        "such as +265999000001, no spaces",
    )


def dialled_endpoint(text: str) -> str:
    """The endpoint as it is, or UsageFault for what is none."""
    return _checked(
        _ENDPOINT,
        text,
        "endpoint to dial",
        "one endpoint without & and spaces, such as PJSIP/+265999000001@trunk",
    )


def shown_caller(text: str | None) -> str | None:
    """The caller id as it is, or UsageFault for what is none."""
    what, such_as = (
        "caller id: a string without control characters",
        '+265888000001, or "Acme" <+265888000001>',
    )
    return None if text is None else _checked(_SHOWN, text, what, such_as)


def variables(mapping: Mapping[str, object]) -> dict[str, str]:
    """Channel variables as Asterisk takes them: True is ``"1"``, False ``"0"``, numbers are written out.

    A name may start with ``_`` or ``__`` (inherited by the channels this one makes) and may be a function:
    ``CALLERID(name)``, ``PJSIP_HEADER(add,X-Tenant)``. Raises UsageFault for None and every other type, which
    Asterisk would refuse or, worse, drop.
    """
    return {_variable_name(name): _variable_value(name, value) for name, value in mapping.items()}


def app_args(args: Sequence[str]) -> str:
    """Arguments of a Stasis app as one text; what has a meaning there is escaped, so that all come back."""
    if isinstance(args, str):
        raise UsageFault(f"app_args is a sequence of strings, and not one string: {args!r}")
    return ",".join(
        re.sub(r'([\\,"()\[\]])', r"\\\1", _free_text(arg, "an argument of a Stasis app")) for arg in args
    )


def _variable_name(name: str) -> str:
    return _checked(
        _VARIABLE,
        name,
        "name of a channel variable",
        "letters, digits and _, such as TENANT_ID, or a function such as CALLERID(name)",
    )


def _may_take_time(name: str) -> bool:
    """A function of the dialplan may ask a database or a server (CURL, ODBC_…); these two ask nobody."""
    return "(" in name and not name.startswith(("CALLERID(", "DIALPLAN_EXISTS("))


def _variable_value(name: str, value: object) -> str:
    match value:
        case bool():
            return str(int(value))
        case int() | float():
            return str(value)
        case str() if "\0" in value or (name.endswith(")") and _CONTROL.search(value)):
            # A line break in PJSIP_HEADER would be a second SIP header.
            raise UsageFault(f"the value of the channel variable {name} holds a control character")
        case str():
            return value
        case _:
            raise UsageFault(
                f"the channel variable {name} cannot be {value!r}: a value is a string, a number or a bool",
                hint='leave it out, or give "" to set it to nothing' if value is None else None,
            )


def _free_text(text: object, what: str) -> str:
    if not isinstance(text, str) or "\0" in text:
        raise UsageFault(f"{what} must be a string without NUL, and not {text!r}")
    return text


def _checked(pattern: re.Pattern[str], text: object, what: str, hint: str) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise UsageFault(f"{text!r} is no {what}", hint=hint)
    return text


def _must_be_ringing_time(seconds: object) -> None:
    if not isinstance(seconds, int | float) or not 1 <= seconds <= LONGEST:
        raise UsageFault(f"the timeout of an originate is 1 to {LONGEST:.0f} seconds, and not {seconds!r}")


def _context(text: str) -> str:
    return _checked(_CONTEXT, text, "context", "letters, digits and _ . - of a context of the dialplan")


def _id(kind: str, id: str, *rest: str) -> str:
    """The path of one thing; ids may hold anything, such as the ``;2`` of a Local channel's other half."""
    return "/".join((f"/{kind}", *(_quoted(part) for part in (id, *rest))))


def _quoted(part: str) -> str:
    """Our own ids, and most words of a path, need no quoting."""
    if part.isalnum() and part.isascii():
        return part
    try:
        return quote(part, safe="")
    except UnicodeEncodeError as exc:
        raise _unwritable(repr(part), exc) from None


def _unwritable(what: str, reason: Exception) -> UsageFault:
    return UsageFault(
        f"{what} cannot be sent: {reason}",
        hint="it must be JSON in UTF-8: decode bytes with their encoding, and make other values strings",
    )


def _query(*pairs: tuple[str, str | float | bool | None]) -> tuple[tuple[str, str], ...]:
    """Parameters that are given; those that are None are left to Asterisk."""
    return tuple((name, _word(value)) for name, value in pairs if value is not None)


def _word(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(ceil(value))


def _variables_body(mapping: Mapping[str, object] | None) -> Mapping[str, Any] | None:
    # The one form that works: in the query, bare or as a form they are dropped with a 200 (measured).
    return {"variables": variables(mapping)} if mapping else None


# --- channels ---------------------------------------------------------------------------------------------


def channels() -> Request:
    return Request("GET", "/channels", slow=True)


def channel(id: str) -> Request:
    return Request("GET", _id("channels", id))


def originate(
    endpoint: str,
    *,
    app: str | None = None,
    app_args: Sequence[str] = (),
    context: str | None = None,
    extension: str | None = None,
    priority: int = 1,
    caller_id: str | None = None,
    timeout: float = 30,
    variables: Mapping[str, object] | None = None,
    channel_id: str | None = None,
    originator: str | None = None,
    formats: Iterable[str] | None = None,
) -> Request:
    """Dial an endpoint. When it answers, it goes to ``app``, or to ``extension`` in ``context``.

    ``timeout``: seconds it may ring. ``originator``: the channel this is done for, whose variables and
    accounting it inherits. Nobody has to be connected to ``app``: Asterisk dials all the same, and hangs up
    on who answers. Raises UsageFault.
    """
    if app is not None and (context is not None or extension is not None):
        raise UsageFault(
            "give app or context, not both: an answered channel goes to a Stasis app or to the dialplan, and"
            " Asterisk would silently take one of them",
            hint="app=None and context=…, extension=… for the dialplan",
        )
    if app is None and (context is None or extension is None):
        raise UsageFault(
            "an originate needs app, or context and extension: where the answered channel goes",
            hint='app="voxtra-acme", or context="from-trunk-out", extension="+265999000001"',
        )
    if app is None and app_args:
        raise UsageFault("app_args are for a Stasis app, and no app is given")
    _must_be_ringing_time(timeout)
    if context is not None and extension is not None:
        goal = _query(
            ("context", _context(context)), ("extension", dialled_number(extension)), ("priority", priority)
        )
    else:
        goal = _app_query(app, app_args)
    return Request(
        "POST",
        "/channels" if channel_id is None else _id("channels", channel_id),
        _query(("endpoint", dialled_endpoint(endpoint)))
        + goal
        + _query(
            ("callerId", shown_caller(caller_id)),
            ("timeout", timeout),
            ("originator", originator),
            ("formats", None if formats is None else ",".join(formats)),
        ),
        _variables_body(variables),
        slow=True,
    )


def create(
    endpoint: str,
    app: str,
    *,
    channel_id: str | None = None,
    app_args: Sequence[str] = (),
    originator: str | None = None,
    formats: Iterable[str] | None = None,
    variables: Mapping[str, object] | None = None,
) -> Request:
    """Make a channel that is in the app at once and dials nobody yet; ``dial`` follows on its StasisStart."""
    return Request(
        "POST",
        "/channels/create",
        _query(("endpoint", dialled_endpoint(endpoint)))
        + _app_query(app, app_args)
        + _query(
            ("channelId", channel_id),
            ("originator", originator),
            ("formats", None if formats is None else ",".join(formats)),
        ),
        _variables_body(variables),
    )


def dial(id: str, *, caller: str | None = None, timeout: float = 30) -> Request:
    """Dial a channel that ``create`` made. Never twice: the second time Asterisk hangs up (measured)."""
    return Request("POST", _id("channels", id, "dial"), _query(("caller", caller), ("timeout", timeout)))


def answer(id: str, *, first: bool = False) -> Request:
    """Waits while a sound is played to the channel or it is recorded; stop that first.

    ``first``: nothing was asked of this channel before, so there is nothing to wait for.
    """
    return Request("POST", _id("channels", id, "answer"), slow=not first)


def hangup(id: str, reason: str | None = None, *, cause: int | None = None) -> Request:
    """End a channel, with one of HANGUP_REASONS or with a Q.850 cause."""
    if reason is not None and cause is not None:
        raise UsageFault("a hangup has a reason or a cause, not both")
    if reason is not None and reason not in HANGUP_REASONS:
        raise UsageFault(
            f"{reason!r} is no reason to hang up", hint=f"one of {', '.join(HANGUP_REASONS)}, or a cause"
        )
    if cause is not None and not 1 <= cause <= 127:
        raise UsageFault(f"{cause} is no Q.850 cause: they go from 1 to 127")
    return Request("DELETE", _id("channels", id), _query(("reason", reason), ("reason_code", cause)))


def continue_in_dialplan(
    id: str, context: str | None = None, extension: str | None = None, priority: int | None = None
) -> Request:
    """Leave Stasis for the dialplan; what is not given is where the channel came from, one priority on."""
    return Request(
        "POST",
        _id("channels", id, "continue"),
        _query(
            ("context", None if context is None else _context(context)),
            ("extension", None if extension is None else dialled_number(extension)),
            ("priority", priority),
        ),
    )


def move(id: str, app: str, args: Sequence[str] = ()) -> Request:
    """Hand a channel in Stasis to another app, which gets a StasisStart.

    Here Asterisk cuts the arguments at every comma, drops empty ones and knows no escape (measured): such
    arguments are refused.
    """
    if isinstance(args, str) or any(
        not _free_text(arg, "an argument of a move") or "," in arg for arg in args
    ):
        raise UsageFault(f"a move cannot carry {args!r}: a sequence of strings, none empty or with a comma")
    joined = ",".join(args) if args else None
    return Request("POST", _id("channels", id, "move"), _query(("app", app), ("appArgs", joined)), slow=True)


def redirect(id: str, endpoint: str) -> Request:
    """Ask the caller's own phone to call elsewhere (SIP 302 or REFER)."""
    return Request("POST", _id("channels", id, "redirect"), _query(("endpoint", dialled_endpoint(endpoint))))


def ring(id: str) -> Request:
    return Request("POST", _id("channels", id, "ring"))


def ring_stop(id: str) -> Request:
    return Request("DELETE", _id("channels", id, "ring"))


def mute(id: str, direction: str = "both") -> Request:
    """``in``: nothing is heard from the channel; ``out``: it hears nothing."""
    return Request("POST", _id("channels", id, "mute"), _query(("direction", direction)))


def unmute(id: str, direction: str = "both") -> Request:
    return Request("DELETE", _id("channels", id, "mute"), _query(("direction", direction)))


def hold(id: str) -> Request:
    """Tell the far side it is on hold (SIP sendonly); for music heard by it, ``moh_start``."""
    return Request("POST", _id("channels", id, "hold"))


def unhold(id: str) -> Request:
    return Request("DELETE", _id("channels", id, "hold"))


def moh_start(id: str, music: str | None = None) -> Request:
    """``music``: a class of musiconhold.conf."""
    return Request("POST", _id("channels", id, "moh"), _query(("mohClass", music)))


def moh_stop(id: str) -> Request:
    return Request("DELETE", _id("channels", id, "moh"))


def silence_start(id: str) -> Request:
    return Request("POST", _id("channels", id, "silence"))


def silence_stop(id: str) -> Request:
    return Request("DELETE", _id("channels", id, "silence"))


def dtmf(id: str, digits: str, *, between: int = 100, duration: int = 100) -> Request:
    """Send digits; ``duration`` of each and the time ``between`` them in milliseconds."""
    _checked(_DIGITS, digits, "row of digits", "0-9 A-D * # and w for half a second of silence")
    return Request(
        "POST",
        _id("channels", id, "dtmf"),
        _query(("dtmf", digits), ("between", between), ("duration", duration)),
    )


def play(id: str, playback_id: str, media: str | Sequence[str], *, lang: str | None = None) -> Request:
    """Play sounds one after another: ``sound:vm-goodbye``, ``tone:ring``, ``number:12`` … The answer comes
    when it is queued, PlaybackFinished when it is over."""
    return Request(
        "POST", _id("channels", id, "play", playback_id), _query(("lang", lang)), {"media": _media(media)}
    )


def record(
    id: str,
    name: str,
    format: str,
    *,
    max_duration: float = 0,
    max_silence: float = 0,
    if_exists: IfExists = "fail",
    beep: bool = False,
    terminate_on: TerminateOn = "none",
) -> Request:
    """Record what comes from a channel, on the node's disk. Seconds; 0 is no limit. Plays wait meanwhile."""
    return Request(
        "POST",
        _id("channels", id, "record"),
        _query(
            ("name", _free_text(name, "the name of a recording")),
            ("format", format),
            ("maxDurationSeconds", max_duration),
            ("maxSilenceSeconds", max_silence),
            ("ifExists", if_exists),
            ("beep", beep),
            ("terminateOn", terminate_on),
        ),
    )


def get_variable(id: str, name: str) -> Request:
    query = _query(("variable", _variable_name(name)))
    return Request("GET", _id("channels", id, "variable"), query, slow=_may_take_time(name))


def set_variable(id: str, name: str, value: object) -> Request:
    """Waits while a sound is played to the channel or it is recorded, as ``answer``; before Asterisk 20.20
    and 22.10 it is answered at once, and set soon after."""
    body = {"variable": _variable_name(name), "value": _variable_value(name, value)}
    return Request("POST", _id("channels", id, "variable"), body=body, slow=True)


def snoop(
    id: str,
    snoop_id: str,
    *,
    app: str,
    app_args: Sequence[str] = (),
    spy: Spied | None = None,
    whisper: Spied | None = None,
) -> Request:
    """A channel in the app that hears another one (``spy``) or speaks into it (``whisper``)."""
    if any("$" in arg for arg in app_args):
        # Only here Asterisk expands them: ${EXTEN} came back as s, and ${SHELL(…)} would run.
        raise UsageFault(f"the arguments of a snoop may not hold a $: {list(app_args)!r}")
    return Request(
        "POST",
        _id("channels", id, "snoop", snoop_id),
        _query(("spy", spy), ("whisper", whisper)) + _app_query(app, app_args),
    )


def external_media(
    channel_id: str,
    *,
    app: str,
    format: str,
    encapsulation: str,
    external_host: str | None = None,
    transport: str | None = None,
    connection_type: str | None = None,
    data: str | None = None,
    transport_data: str | None = None,
    variables: Mapping[str, object] | None = None,
) -> Request:
    """A channel in the app whose sound comes and goes over the network. For AudioSocket: ``host:port`` (50
    bytes at most), ``audiosocket``, ``tcp`` and the UUID as ``data``; a wrong UUID or a dead host is a 500.

    Never over RTP, Asterisk's default: with no RTP port left that request kills Asterisk (its issue 1757;
    seen on 22.10.1), and the other encapsulations need no such port.
    """
    if encapsulation == "rtp":
        raise UsageFault(
            "external media over RTP can kill Asterisk when it has no RTP port left (its issue 1757)",
            hint='encapsulation="audiosocket", or "none" with transport="websocket"',
        )
    if external_host is not None and len(external_host.encode()) > 49:  # Asterisk's buffer of 50 cuts it
        raise UsageFault(f"Asterisk keeps 49 bytes of an external host, and {external_host!r} has more")
    return Request(
        "POST",
        "/channels/externalMedia",
        _query(
            ("channelId", channel_id),
            ("app", app),
            ("external_host", external_host),
            ("encapsulation", encapsulation),
            ("transport", transport),
            ("connection_type", connection_type),
            ("format", format),
            ("data", data),
            ("transport_data", transport_data),
        ),
        _variables_body(variables),
        slow=True,
    )


def _app_query(app: str | None, args: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return _query(("app", app), ("appArgs", app_args(args) if args else None))


def _media(media: str | Sequence[str]) -> list[str]:
    # In the query a comma parts two sounds, but a tone's own text may hold one.
    found = [media] if isinstance(media, str) else list(media)
    if not found or any(":" not in one for one in found):
        raise UsageFault(
            f"{media!r} is nothing to play",
            hint="one or more of sound:NAME, tone:NAME, recording:NAME, number:N",
        )
    return found


# --- playbacks and recordings -----------------------------------------------------------------------------


def playback(id: str) -> Request:
    return Request("GET", _id("playbacks", id))


def stop_playback(id: str) -> Request:
    return Request("DELETE", _id("playbacks", id))


def control_playback(id: str, operation: Operation) -> Request:
    return Request("POST", _id("playbacks", id, "control"), _query(("operation", operation)))


def recording(name: str) -> Request:
    """A recording that is being made."""
    return Request("GET", _id("recordings/live", name))


def stop_recording(name: str) -> Request:
    """End it and keep it."""
    return Request("POST", _id("recordings/live", name, "stop"))


def cancel_recording(name: str) -> Request:
    """End it and throw it away."""
    return Request("DELETE", _id("recordings/live", name))


def stored(name: str) -> Request:
    return Request("GET", _id("recordings/stored", name))


def stored_file(name: str) -> Request:
    """The recording itself, in the answer's ``content``."""
    return Request("GET", _id("recordings/stored", name, "file"), slow=True)


def delete_stored(name: str) -> Request:
    return Request("DELETE", _id("recordings/stored", name))


# --- bridges ----------------------------------------------------------------------------------------------


def bridges() -> Request:
    return Request("GET", "/bridges", slow=True)


def bridge(id: str) -> Request:
    return Request("GET", _id("bridges", id))


def create_bridge(id: str, type: str = "mixing", name: str = "") -> Request:
    """``type``: mixing or holding, and with a comma dtmf_events, proxy_media …"""
    return Request("POST", _id("bridges", id), _query(("type", type), ("name", name)))


def add_to_bridge(id: str, channels: Sequence[str], *, role: str | None = None) -> Request:
    """Waits while a sound is played to one of the channels; a channel that is recorded is refused (409)."""
    query = _query(("channel", _joined(channels)), ("role", role))
    return Request("POST", _id("bridges", id, "addChannel"), query, slow=True)


def remove_from_bridge(id: str, channels: Sequence[str]) -> Request:
    """Waits while a sound is played to one of the channels."""
    query = _query(("channel", _joined(channels)))
    return Request("POST", _id("bridges", id, "removeChannel"), query, slow=True)


def play_bridge(id: str, playback_id: str, media: str | Sequence[str], *, lang: str | None = None) -> Request:
    """Play to all in a bridge; as ``play``."""
    return Request(
        "POST", _id("bridges", id, "play", playback_id), _query(("lang", lang)), {"media": _media(media)}
    )


def destroy_bridge(id: str) -> Request:
    """Its channels stay, each for itself."""
    return Request("DELETE", _id("bridges", id))


# --- applications -----------------------------------------------------------------------------------------


def applications() -> Request:
    return Request("GET", "/applications", slow=True)


def application(app: str) -> Request:
    """What an app is subscribed to. No proof that somebody is connected: it stays while it has channels."""
    return Request("GET", _id("applications", app), slow=True)


def subscribe(app: str, sources: Sequence[str], *, many: bool = False) -> Request:
    """Have the events of ``channel:ID``, ``bridge:ID``, ``endpoint:TECH/NAME`` or ``deviceState:NAME`` sent.

    ChannelDestroyed comes for no inbound call without it (measured). Each answer names all that the app is
    subscribed to: ``many`` says that it may be thousands, and not for a websocket.
    """
    query = _query(("eventSource", _joined(sources)))
    return Request("POST", _id("applications", app, "subscription"), query, slow=many)


def unsubscribe(app: str, sources: Sequence[str]) -> Request:
    query = _query(("eventSource", _joined(sources)))
    return Request("DELETE", _id("applications", app, "subscription"), query, slow=True)


def event_filter(app: str, disallowed: Iterable[str] = (), *, allowed: Iterable[str] = ()) -> Request:
    """Which types of events an app is sent; nothing given: all. Asterisk keeps it while the app lives.

    A list of allowed ones always has RESTResponse in it, else no answer would come over the websocket.
    """
    allowed, disallowed = list(allowed), list(disallowed)
    if "RESTResponse" in disallowed:
        raise UsageFault("RESTResponse is what answers over the websocket are sent as: it cannot be filtered")
    if allowed and "RESTResponse" not in allowed:
        allowed.append("RESTResponse")
    body = {
        "allowed": [{"type": one} for one in allowed],
        "disallowed": [{"type": one} for one in disallowed],
    }
    return Request("PUT", _id("applications", app, "eventFilter"), body=body, slow=True)


def user_event(name: str, app: str) -> Request:
    """An event that whoever has the app gets as ChannelUserevent; 404 when Asterisk has no such app."""
    return Request("POST", _id("events", "user", name), (("application", app),))


def _joined(several: Sequence[str]) -> str:
    if isinstance(several, str) or not several or any("," in one or not one for one in several):
        raise UsageFault(f"{several!r} must be a sequence of one or more ids without commas")
    return ",".join(several)
