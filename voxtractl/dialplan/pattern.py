"""Asterisk's extension patterns: which numbers a pattern takes, and which of several patterns is asked first.

    1000          a literal: this number and no other
    _+265[1-9]X.  a pattern, by its underscore:
                    X x  0 to 9      Z z  1 to 9      N n  2 to 9
                    [a-c59]          one character of the set
                    .                one or more characters of any kind, at the end
                    !                none or more characters of any kind, at the end
                    anything else    itself, in its case

A dash outside a set counts nowhere, neither in the pattern nor in the number. Which pattern is asked first is
Asterisk's order (main/pbx.c, ext_cmp): literals before patterns; patterns position by position, the smaller
set first, then the set with the lower characters; ``.`` after every set, ``!`` after ``.``, and the end of a
pattern after everything, so that the longer pattern is asked before the shorter.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from voxtractl.errors import UsageFault

__all__ = ["Pattern", "best"]

_CLASSES: Final = {
    **dict.fromkeys("Xx", frozenset("0123456789")),
    **dict.fromkeys("Zz", frozenset("123456789")),
    **dict.fromkeys("Nn", frozenset("23456789")),
}
# What follows the class, and its place in Asterisk's order: above every set's (256 characters at most).
_WILDCARDS: Final = {".": (".+", (0x18000, 0)), "!": (".*", (0x28000, 0))}
_END: Final = (0x30000, 0)
_CHARACTERS: Final = re.compile(r"[!-~]+")  # printable ASCII without the blank
# Asterisk's file ends the extension there, expands or escapes it (pbx/pbx_config.c).
_SPECIAL: Final = re.compile(r"[,/;$\\]")
_TOKEN: Final = re.compile(r"\[([^\]]*)\]|(.)")

Key = tuple[int, str | tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Pattern:
    """A pattern or literal; equal when Asterisk holds them for the same extension (``_X`` and ``_[0-9]``).

    ``text`` is as it was written. ``key`` sorts as Asterisk does: the lowest is asked first.
    """

    text: str = field(compare=False)
    key: Key
    _takes: re.Pattern[str] = field(compare=False, repr=False)

    @classmethod
    def of(cls, text: str) -> "Pattern":
        """Read a pattern. Raises UsageFault for what Asterisk would cut, drop or never match."""
        fault = _fault(text)
        if fault is not None:
            raise UsageFault(f"{text!r} is no extension pattern: {fault}", hint="such as _+265X. or 1000")
        if not text.startswith("_"):
            literal = text.replace("-", "")
            return cls(text, (0, literal), re.compile(re.escape(literal)))
        places: list[tuple[int, int]] = []
        takes: list[str] = []
        for body, single in _TOKEN.findall(text[1:]):
            if single == "-":
                continue
            if single in _WILDCARDS:
                wildcard, place = _WILDCARDS[single]
            else:
                chars = _CLASSES.get(single, frozenset(single)) if single else _set(body)
                wildcard, place = f"[{''.join(map(re.escape, sorted(chars)))}]", _place(chars)
            takes.append(wildcard)
            places.append(place)
        return cls(text, (1, (*places, _END)), re.compile("".join(takes), re.DOTALL))

    @property
    def is_literal(self) -> bool:
        return self.key[0] == 0

    def matches(self, number: str) -> bool:
        """True when Asterisk would take this extension for the number."""
        return self._takes.fullmatch(number.replace("-", "")) is not None


def best(patterns: Iterable[Pattern], number: str) -> Pattern | None:
    """The pattern Asterisk takes for the number, of those in one context; None when none matches."""
    return min((p for p in patterns if p.matches(number)), key=lambda p: p.key, default=None)


def _fault(text: str) -> str | None:
    """What is wrong with it, or None."""
    if not text:
        return "it is empty"
    if not _CHARACTERS.fullmatch(text):
        return "only printable ASCII characters without blanks are allowed"
    if special := _SPECIAL.search(text):
        return f"{special[0]!r} has a meaning of its own in Asterisk's file"
    if not text.startswith("_"):
        if "[" in text:
            return "a set needs an underscore at the beginning"
        return None if text.replace("-", "") else "dashes count nowhere, so nothing is left"
    rest = text[1:]
    if not rest.replace("-", ""):
        return "nothing follows the underscore"
    plain = re.sub(r"\[[^\]]*\]", "[]", rest)  # what is in a set stands for itself
    if "[" in plain.replace("[]", ""):
        return "a set is not closed"
    if re.search(r"[.!].", plain):
        return ". and ! end a pattern"
    for body in re.findall(r"\[([^\]]*)\]", rest):
        if not body:
            return "a set is empty"
        if "[" in body:
            return "a set holds no ["  # Asterisk's file waits for another ] and swallows the line
        if span := next((span for span in _spans(body) if span[0] > span[1]), None):
            return f"the range {span[0]}-{span[1]} is backwards"
    return None


def _spans(body: str) -> list[tuple[str, str]]:
    """The ranges of a set; a dash is one only between two characters."""
    return [(first, last or first) for first, last in re.findall(r"(.)(?:-(.))?", body)]


def _set(body: str) -> frozenset[str]:
    return frozenset(chr(c) for first, last in _spans(body) for c in range(ord(first), ord(last) + 1))


def _place(chars: frozenset[str]) -> tuple[int, int]:
    """Where a position sorts: by the set's size, its lowest character, then its lower characters first."""
    lowest = min(map(ord, chars))
    return (len(chars) << 8 | lowest, -sum(1 << (255 - ord(char)) for char in chars))
