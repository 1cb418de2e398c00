"""The only escaper: puts a value into Asterisk's text so that Asterisk reads exactly that value, or refuses.

One function for each position a value can stand in; templates know them as filters of the same names.
A value that a position cannot carry exactly is an UnsafeValue naming its key, never its text: it may be
a password. Nothing is rewritten in silence, and no other module escapes anything.

    value      right of `key = `                      `;` would cut it, `;--` would hide all that follows
    arg        one argument of an application         percent-encoded for URIDECODE when it is not plain
    assign     the right side of Set(X=…)             the same; Set does not split, so no backslashes
    exten      a literal extension or queue number    special names (h, i, s …) would become handlers
    prefix     the pattern of all numbers below a prefix
    name       a section, endpoint, app or queue name
    host       a host or address, as it stands in a SIP URI
    sip_user   the user part of a SIP URI
    member     a queue member, the first field of its line
    comment    the rest of a comment line
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv6Address
from typing import Final
from urllib.parse import quote

from voxtractl.errors import UnsafeValue

__all__ = [
    "FILTERS",
    "VALUE_MAX",
    "arg",
    "assign",
    "comment",
    "exten",
    "host",
    "member",
    "name",
    "prefix",
    "sip_user",
    "value",
]

# Asterisk reads lines of 8191 bytes (measured: a longer one is skipped, and the reload says 204), and
# substitutes variables in a buffer of 4096. Counted as it stands in the file, escapes included.
VALUE_MAX: Final = 2000

# Every control character but tab, every line break of Unicode, and what has no UTF-8 (lone surrogates).
_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_VALUE: Final = re.compile(r"[A-Za-z0-9_.+@/:-]{1,500}")
_PLAIN_ARG: Final = re.compile(r"[A-Za-z0-9_.+@/:*#&=-]{1,500}")
_ARG_SPECIAL: Final = re.compile(r'[\\,"()\[\]]')  # what splits or groups the arguments of an application
_EXTEN: Final = re.compile(r"[A-Za-z0-9+*#][A-Za-z0-9+*#_.-]{0,78}")
_PREFIX: Final = re.compile(r"\+?[0-9]{0,20}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,78}")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,253}")

# Handlers of the dialplan: a queue named "h" would run whenever anybody hangs up in that context.
_SPECIAL: Final = frozenset("aehistoT") | {"failed", "fax"}


def value(text: object, key: str = "a value") -> str:
    r"""The right side of ``key = ``: ``;`` becomes ``\;``, all else stands as it is (measured).

    Put a blank after the ``=``: in ``key=>x`` Asterisk reads the ``>`` as part of the sign.
    """
    plain = _text(text, key)
    if _PLAIN_VALUE.fullmatch(plain):
        return plain
    _refuse_unreadable(plain, key)
    if not plain or plain[0] in "\t " or plain[-1] in "\t ":
        raise UnsafeValue(f"{key} is empty or has a blank at its edge", hint="Asterisk strips edge blanks")
    return plain.replace(";", "\\;")


def arg(text: object, key: str = "an argument") -> str:
    """One argument of an application, taken literally by Asterisk whatever it holds."""
    plain = _text(text, key)
    if _PLAIN_ARG.fullmatch(plain):
        return plain
    _refuse_unreadable(plain, key)
    return _encoded(_ARG_SPECIAL.sub(r"\\\g<0>", plain), key)


def assign(text: object, key: str = "a value") -> str:
    """The right side of ``Set(NAME=…)``."""
    plain = _text(text, key)
    _refuse_unreadable(plain, key)
    return _encoded(plain, key)


def exten(text: object, key: str = "an extension") -> str:
    """A literal extension: never a pattern, never one of Asterisk's own handlers."""
    plain = _text(text, key)
    if not _EXTEN.fullmatch(plain) or plain in _SPECIAL:
        raise UnsafeValue(f"{key} cannot be an extension", hint="use letters, digits, + * # _ . and -")
    return plain


def prefix(text: object, key: str = "a prefix") -> str:
    """The pattern of every number that begins with this prefix, the prefix itself too (``!``, not ``.``)."""
    plain = _text(text, key)
    if not _PREFIX.fullmatch(plain):
        raise UnsafeValue(f"{key} cannot be a prefix of numbers", hint="use digits, with or without a +")
    # A pattern `_!` would also take h, i, s and t.
    return f"_{plain}!" if plain else "_[+0-9]!"


def name(text: object, key: str = "a name") -> str:
    """A name that stands in brackets or inside another name."""
    plain = _text(text, key)
    if not _NAME.fullmatch(plain):
        raise UnsafeValue(f"{key} cannot be a name", hint="use letters, digits, _ . and -, at most 79")
    return plain


def host(text: object, key: str = "a host") -> str:
    """A host name or address; an IPv6 address, without a zone, comes back in brackets."""
    plain = _text(text, key)
    if _HOST.fullmatch(plain):
        return plain
    try:
        return f"[{IPv6Address(plain.removeprefix('[').removesuffix(']').replace('%', ' '))}]"
    except AddressValueError as exc:
        raise UnsafeValue(
            f"{key} is not a host name or an address", hint="for example sip.carrier.example"
        ) from exc


def sip_user(text: object, key: str = "a user") -> str:
    """The user part of a SIP URI, percent-encoded but for the marks of RFC 3261 section 25.1.

    The RFC would let a ``/`` stand; in from_user Asterisk 22 then refuses the whole endpoint (measured).
    """
    plain = _text(text, key)
    _refuse_unreadable(plain, key)
    if not plain:
        raise UnsafeValue(f"{key} is empty", hint="leave the key out instead")
    return quote(plain, safe="-_.!~*'()&=+$")


def member(text: object, key: str = "a member") -> str:
    """A queue member: ``PJSIP/agent1``. A comma would begin its penalty."""
    plain = value(text, key)
    if "," in plain:
        raise UnsafeValue(f"{key} holds a comma", hint="name one interface: PJSIP/agent1")
    return plain


def comment(text: object, key: str = "a comment") -> str:
    """The rest of a ``; `` line. Anything but one printable line is refused, block comments too."""
    plain = _text(text, key)
    _refuse_unreadable(plain, key)
    if "\t" in plain or ";-" in plain or "-;" in plain:
        raise UnsafeValue(f"{key} cannot be a comment", hint="leave out tabs, ;-- and --;")
    return plain


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    rule.__name__: rule for rule in (value, arg, assign, exten, prefix, name, host, sip_user, member, comment)
}


def _text(text: object, key: str) -> str:
    """Strings and numbers only: the text of anything else (None, True, a list) is never what was meant."""
    if isinstance(text, str):
        return str(text)
    if isinstance(text, int) and not isinstance(text, bool):
        return str(text)
    raise UnsafeValue(f"{key} is a {type(text).__name__}, not a text", hint="give one of its texts")


def _refuse_unreadable(plain: str, key: str) -> None:
    if _CONTROL.search(plain):
        raise UnsafeValue(
            f"{key} holds a line break or a control character", hint="no Asterisk file can carry it"
        )
    _refuse_long(plain, key)


def _refuse_long(written: str, key: str) -> None:
    if len(written.encode()) > VALUE_MAX:
        raise UnsafeValue(
            f"{key} is longer than {VALUE_MAX} bytes", hint="Asterisk skips lines that are too long"
        )


def _encoded(plain: str, key: str) -> str:
    """Text for URIDECODE: neither the configuration reader nor the substitution finds anything to act on."""
    written = "${URIDECODE(" + quote(plain, safe="") + ")}" if plain else ""
    _refuse_long(written, key)
    return written
