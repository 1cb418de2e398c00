"""What each value of the document may look like, alone; and the list of faults that checking fills. Pure.

A check takes a value, its key and the faults so far; it gives the value back, ready for use, or notes a fault
and gives ``BAD``. Rules that need more than one value live in ``document.py`` (one table) and ``fleet.py``
(tenants and nodes together).

This is the first wall before Asterisk: what reaches a rendered file is a slug, a number or a word of a
small character set, because dialplan text is code (a value ``${SHELL(id)}`` ran; measured on 22.10). A fault
shows a value only where it cannot be a secret: a password typed under the wrong key must not end up in a log.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from voxtractl import naming
from voxtractl.model.keys import Key

__all__ = [
    "BAD",
    "CODECS",
    "NAME_MAX",
    "PATH",
    "SLUG_TODO",
    "STRATEGIES",
    "Check",
    "Fault",
    "Faults",
    "amount",
    "app",
    "ari",
    "choice",
    "close",
    "codec",
    "context",
    "dialled",
    "did",
    "each",
    "extension",
    "flag",
    "folder",
    "form",
    "handler",
    "host",
    "kind",
    "listed",
    "member",
    "name",
    "node_name",
    "number",
    "plain",
    "prefix",
    "queue",
    "shown",
    "sound",
    "store",
    "strategy",
    "table",
    "username",
    "word",
]

BAD: Final[Any] = object()  # what a check gives back for a value it refused
NAME_MAX: Final = 200


class Fault(NamedTuple):
    """One thing that is wrong; ``document.py`` adds line and column."""

    file: str  # "" is the first file of the document
    key: Key
    what: str
    todo: str
    also: tuple[str, Key] | None = None  # the other place, when two places disagree


class Faults:
    """The faults found so far; ``file`` is the one that is being read."""

    def __init__(self) -> None:
        self.file = ""
        self.found: list[Fault] = []

    def add(self, key: Key, what: str, todo: str, also: tuple[str, Key] | None = None) -> None:
        self.found.append(Fault(self.file, key, what, todo, also))


Check = Callable[[Any, Key, Faults], Any]

# line breaks and other controls, unicode line separators, and the marks that turn the reading direction
# (they make a line look other than it is)
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def kind(value: object) -> str:
    """The TOML type of a value, in words."""
    for type_, words in (
        (bool, "true or false"),
        (str, "text"),
        (int, "a number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "a table"),
    ):
        if isinstance(value, type_):
            return words
    return "a date or time"


def close(word_: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    from difflib import get_close_matches

    found = get_close_matches(word_[:80], list(known), 1)
    return found[0] if found else None


def shown(value: str) -> str:
    """A value inside an error: one line, not too long."""
    cut = value if len(value) <= 40 else value[:40] + "…"
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in cut) + '"'


def form(pattern: str, is_: str, todo: str, *, show: bool = False, most: int = 255) -> Check:
    """Text of a given form; ``show`` when the value may be repeated in the error."""
    compiled: list[re.Pattern[str]] = []  # at its first use: most commands meet few of these forms

    def check(value: Any, at: Key, faults: Faults) -> Any:
        if not compiled:
            compiled.append(re.compile(pattern))
        if type(value) is str and len(value) <= most and compiled[0].fullmatch(value):
            return value
        if type(value) is not str:
            faults.add(at, f"this is {kind(value)}, not text", "put it in quotes")
        elif len(value) > most:
            faults.add(at, f"this has {len(value)} characters; {most} are the most", "shorten it")
        else:
            faults.add(at, f"{shown(value) if show else 'this'} is not {is_}", todo)
        return BAD

    return check


def listed(is_: str, known: Collection[str], todo: str) -> Check:
    """One word of a known set."""

    def check(value: Any, at: Key, faults: Faults) -> Any:
        if type(value) is str and value in known:
            return value
        if type(value) is not str:
            faults.add(at, f"this is {kind(value)}, not text", "put it in quotes")
            return BAD
        near = close(value, known)
        faults.add(at, f"{shown(value)} is not {is_}", f'did you mean "{near}"?' if near else todo)
        return BAD

    return check


def choice(is_: str, *known: str) -> Check:
    """One word of a few."""
    return listed(is_, known, "use " + " or ".join(f'"{word_}"' for word_ in known))


def name(value: Any, at: Key, faults: Faults) -> Any:
    """Free text for people: printable, one line, at most 200 characters."""
    if type(value) is not str:
        faults.add(at, f"this is {kind(value)}, not text", "write it in quotes")
    elif not value or value != value.strip():
        faults.add(at, "this is empty, or begins or ends with a blank", "write the name without edge blanks")
    elif len(value) > NAME_MAX:
        faults.add(at, f"this has {len(value)} characters; {NAME_MAX} are the most", "shorten it")
    elif not value.isprintable() and (bad := _UNPRINTABLE.search(value)):
        faults.add(at, f"it holds the control character U+{ord(bad[0]):04X}", "remove that character")
    else:
        return value
    return BAD


def word(is_: str, *, most: int = 1024) -> Check:
    """Printable text that goes to no Asterisk file (a path, a variable's name, a word of a command)."""

    def check(value: Any, at: Key, faults: Faults) -> Any:
        if type(value) is str and value and len(value) <= most and not _UNPRINTABLE.search(value):
            return value
        faults.add(at, f"this is not {is_}", f"write {is_} as text in quotes, without control characters")
        return BAD

    return check


def number(least: int, most: int) -> Check:
    """A whole number in a range."""

    def check(value: Any, at: Key, faults: Faults) -> Any:
        if type(value) is int and least <= value <= most:  # `type … is`: true is an int in Python
            return value
        if type(value) is int:
            faults.add(at, f"the number is not from {least} to {most}", "correct the number")
        else:
            faults.add(
                at, f"this is {kind(value)}, not a whole number", f"write a number from {least} to {most}"
            )
        return BAD

    return check


def amount(value: Any, at: Key, faults: Faults) -> Any:
    """A number above zero, with or without a fraction."""
    if type(value) in {int, float} and value > 0 and math.isfinite(value):
        return float(value)
    faults.add(at, "this is not a number above 0", "write a number such as 2 or 0.5")
    return BAD


def flag(value: Any, at: Key, faults: Faults) -> Any:
    if type(value) is bool:
        return value
    faults.add(at, f"this is {kind(value)}, not true or false", "write true or false, without quotes")
    return BAD


def each(check: Check, *, least: int = 0) -> Check:
    """A list without repetitions. A refused element leaves "" behind, so that the others keep their index."""

    def check_all(value: Any, at: Key, faults: Faults) -> Any:
        if type(value) is not list:
            todo = 'put it into brackets: ["…"]' if type(value) is str else 'write a list: ["…", "…"]'
            faults.add(at, f"this is {kind(value)}, not a list", todo)
            return BAD
        if len(value) < least:
            faults.add(at, "the list is empty", "name at least one, or remove the key's table")
            return BAD
        out = []
        for i, element in enumerate(value):
            result = check(element, (*at, i), faults)
            out.append("" if result is BAD else result)
        if len(out) > 1 and len(set(out)) < len(out):
            for i, element in enumerate(out):
                if element and element in out[:i]:
                    faults.add(
                        (*at, i), f"{shown(element)} stands twice in this list", "remove one of the two"
                    )
        return tuple(out)

    return check_all


def table(
    value: Any, at: Key, faults: Faults, checks: Mapping[str, Check], required: Iterable[str] = ()
) -> dict[str, Any] | None:
    """The good values of a table; unknown and missing keys are faults. None when it is no table."""
    if type(value) is not dict:
        faults.add(
            at, f"this is {kind(value)}, not a table", f"write [{'.'.join(map(str, at))}] and keys below it"
        )
        return None
    out = {}
    for key, element in value.items():
        check = checks.get(key)
        if check is None:
            near = close(key, checks)
            todo = f"did you mean {near}?" if near else f"known keys: {', '.join(sorted(checks))}"
            faults.add((*at, key), "unknown key", todo)
        elif (result := check(element, (*at, key), faults)) is not BAD:
            out[key] = result
    for key in required:
        if key not in value:
            faults.add(at, f"{key} is missing", f"add {key} = …")
    return out


# --- the forms of the document ----------------------------------------------------------------------------

_SEGMENT: Final = r"(?:(?!\.{1,2}(?:/|$))[A-Za-z0-9_.,+@=-]+)"  # one part of a path, but `.` and `..`
PATH: Final = rf"(?:/{_SEGMENT})+"
_HOST: Final = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])"
_PORT: Final = (
    r"(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))"
)

SLUG_TODO: Final = "use small letters, digits and hyphens, a letter first, at most 31"

did: Final = form(
    naming.DID.pattern,
    "a number in E.164 form",
    "write + and country code, digits only, like +265999000001",
    show=True,
)
extension: Final = form(
    naming.INTERNAL_EXTENSION.pattern, "an internal extension", "use up to 15 of 0-9 * #", show=True
)
dialled: Final = form(
    rf"{naming.DID.pattern}|{naming.INTERNAL_EXTENSION.pattern}",
    "a phone number",
    "write it like +265999000001, or an internal extension like 1000",
    show=True,
)
prefix: Final = form(
    r"\+[0-9]{0,15}|[0-9*#]{1,15}",
    "a prefix of numbers",
    "write it like +265; + alone is every number",
    show=True,
)
node_name: Final = form(
    naming.NODE.pattern,
    "a node's name",
    "use letters, digits, dot, hyphen and underscore, at most 63, a letter or digit first",
    show=True,
)
queue: Final = form(
    r"[a-z0-9][a-z0-9_-]{0,39}",
    "a queue's name",
    "use small letters, digits, hyphen and underscore, at most 40",
    show=True,
)
sound: Final = form(
    r"(?!.*\.\.)[A-Za-z0-9_/&.:-]+",
    "the name of a sound",
    "write it as Asterisk knows it, without ending: vm-goodbye; letters, digits and _ / & . : - only",
    most=200,
)
host: Final = form(
    _HOST, "a host", "write a name like sip.carrier.example, an IPv4 address, or an IPv6 address in brackets"
)
username: Final = form(
    r"[A-Za-z0-9_.!~*'()&=+$,?/%@#:-]+",
    "a SIP user name",
    "use letters, digits and _ . ! ~ * ' ( ) & = + $ , ? / % @ # : - only",
    most=128,
)
plain: Final = form(
    r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a plain name", "use letters, digits, dot, hyphen and underscore", most=64
)
member: Final = form(
    r"(?:PJSIP|Local|SIP|IAX2|DAHDI)/[A-Za-z0-9_.+][A-Za-z0-9_.+:/@-]*",
    "a member of a queue",
    "write an endpoint: PJSIP/agent1 or Local/1000@context",
    show=True,
    most=120,
)
app: Final = form(
    r"[A-Za-z0-9_.-]+",
    "the name of a Stasis app",
    "use letters, digits, dot, hyphen and underscore",
    show=True,
)
handler: Final = form(
    r"(?:[^:\x00-\x1f\x7f]+\.py|[A-Za-z_][A-Za-z0-9_.]*):[A-Za-z_][A-Za-z0-9_]*",
    "a handler",
    "write file and name of the app in it: handlers/acme.py:app",
)
context: Final = form(
    # not Asterisk's own sections, nor a context that voxtractl makes
    r"(?!(?:general|globals)$|voxtractl-|voxtra-|stasis-|did-[0-9]{3}$)[A-Za-z0-9_][A-Za-z0-9_-]*",
    "a context that may be shared by the carriers",
    "use letters, digits, hyphen and underscore, and no name that voxtractl or Asterisk makes",
    show=True,
    most=naming.CONTEXT_MAX,
)
ari: Final = form(
    rf"https?://{_HOST}{_PORT}?(?:/(?!ari/?$){_SEGMENT})*/?",
    "the address of an ARI",
    "write it like http://127.0.0.1:8088, without user, password and /ari",
)
store: Final = form(
    rf"local:{PATH}|sftp://(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?{_HOST}{_PORT}?{PATH}|memory:[A-Za-z0-9_.-]+",
    "a store",
    "write local:/etc/asterisk/voxtractl, sftp://user@host/etc/asterisk/voxtractl (no password, no blank), "
    "or memory:NAME",
)
folder: Final = form(PATH, "an absolute folder", "write it like /etc/asterisk")

# `core show codecs` of Asterisk 22.10, audio and video
_CODECS: Final = """
adpcm alaw amr amrwb codec2 g719 g722 g723 g726 g726aal2 g729 gsm ilbc lpc10 opus siren14 siren7
silk12 silk16 silk24 silk8 slin slin12 slin16 slin192 slin24 slin32 slin44 slin48 slin96
speex speex16 speex32 ulaw h261 h263 h263p h264 h265 mpeg4 vp8 vp9
"""
CODECS: Final = frozenset(_CODECS.split())
codec: Final = listed(
    "a codec of Asterisk", CODECS, "use names of `core show codecs`, such as ulaw, alaw, opus"
)
STRATEGIES: Final = (
    "ringall",
    "leastrecent",
    "fewestcalls",
    "random",
    "rrmemory",
    "linear",
    "wrandom",
    "rrordered",
)
strategy: Final = listed(
    "a queue strategy of Asterisk",
    STRATEGIES,
    "use ringall, leastrecent, fewestcalls, random, rrmemory, linear, wrandom or rrordered",
)
