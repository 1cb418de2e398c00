"""Where everything stands in a TOML text: the offset of every key, value and statement. Pure.

tomli says what a document means and forgets where it stood; this says where, for a text that tomli has
accepted. It runs only when there is something to show or to change, never on the way of a good document.
A test compares both on random documents: every key that tomli knows is found here, at its own text.
"""

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import tomli

from voxtractl.model.keys import Key

__all__ = ["Layout", "Statement", "line_col", "scan"]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN: Final = re.compile(r"([A-Za-z0-9_-]+)[ \t]*=[ \t]*")  # a bare key up to its value
_GAP: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")  # between statements and inside brackets
_BLANK: Final = re.compile(r"[ \t]*")
_REST: Final = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\r?\n)?")  # what may follow on the line of a statement
_TOKEN: Final = re.compile(
    r'"""(?:[^"\\]+|\\[\s\S]|"(?!""))*"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''(?:[^']+|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]+|\\.)*"'
    r"|'[^'\n]*'"
    r"|[^,\]}#\r\n]+"  # a number, a date (with a blank inside), true, false
)


class Statement(NamedTuple):
    """One header or one assignment with its whole lines, trailing comment and line end included."""

    key: Key
    header: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    places: dict[Key, int] = field(default_factory=dict)  # the text of the key; of an array's element itself
    values: dict[Key, tuple[int, int]] = field(default_factory=dict)  # what stands right of the `=`
    statements: list[Statement] = field(default_factory=list)


def line_col(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1, in characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def scan(text: str) -> Layout:
    """The layout of a text that tomli accepts."""
    return _Scan(text).run()


class _Scan:
    """One pass over the text, without recursion."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found = Layout()
        self.counts: dict[Key, int] = {}  # [[tables]] seen so far

    def run(self) -> Layout:
        text, size = self.text, len(self.text)
        section: Key = ()
        pos = self._skip(_GAP, 0)
        while pos < size:
            start = text.rfind("\n", 0, pos) + 1
            header = text[pos] == "["
            if header:
                section, pos = self._header(pos)
                key = section
            else:
                key, pos = self._assignment(pos, section)
            pos = self._skip(_REST, pos)
            self.found.statements.append(Statement(key, header, start, pos))
            pos = self._skip(_GAP, pos)
        return self.found

    def _skip(self, pattern: re.Pattern[str], pos: int) -> int:
        match = pattern.match(self.text, pos)
        return match.end() if match else pos

    def _part(self, pos: int) -> tuple[str, int]:
        """One part of a dotted key."""
        quote = self.text[pos]
        if quote not in "\"'":
            end = self._skip(_BARE, pos)
            return self.text[pos:end], end
        end = self._skip(_TOKEN, pos)
        raw = self.text[pos:end]
        if "\\" in raw and quote == '"':
            return next(iter(tomli.loads(f"{raw} = 0"))), end
        return raw[1:-1], end

    def _parts(self, pos: int) -> tuple[list[tuple[str, int]], int]:
        """The parts of a dotted key with their offsets, and the offset behind them and the blanks."""
        parts: list[tuple[str, int]] = []
        while True:
            pos = self._skip(_BLANK, pos)
            name, end = self._part(pos)
            parts.append((name, pos))
            pos = self._skip(_BLANK, end)
            if self.text[pos] != ".":
                return parts, pos
            pos += 1

    def _header(self, pos: int) -> tuple[Key, int]:
        brackets = 2 if self.text.startswith("[[", pos) else 1
        parts, pos = self._parts(pos + brackets)
        key: Key = ()
        for name, at in parts[:-1]:
            key = (*key, name)
            self.found.places.setdefault(key, at)
            if key in self.counts:  # a header below [[x]] means the last x
                key = (*key, self.counts[key] - 1)
        name, at = parts[-1]
        key = (*key, name)
        if brackets == 2:
            self.found.places.setdefault(key, at)
            self.counts[key] = self.counts.get(key, 0) + 1
            key = (*key, self.counts[key] - 1)
        self.found.places[key] = at  # its own header counts more than a mention in a longer one
        return key, pos + brackets

    def _assignment(self, pos: int, base: Key) -> tuple[Key, int]:
        key, pos = self._left(pos, base)
        return key, self._value(pos, key)

    def _left(self, pos: int, base: Key) -> tuple[Key, int]:
        """The key of ``key = value`` and the offset of the value."""
        key = base
        if plain := _PLAIN.match(self.text, pos):  # nearly all of them
            key = (*base, plain[1])
            self.found.places.setdefault(key, pos)
            return key, plain.end()
        parts, pos = self._parts(pos)
        for name, at in parts:
            key = (*key, name)
            self.found.places.setdefault(key, at)
        return key, self._skip(_BLANK, pos + 1)

    def _value(self, pos: int, key: Key) -> int:
        """Note the value at ``pos`` and everything inside it; the offset behind it."""
        text, values = self.text, self.found.values
        open_: list[tuple[str, Key, int]] = []
        counts: list[int] = []
        while True:
            if text[pos] in "[{":
                open_.append((text[pos], key, pos))
                counts.append(0)
                pos += 1
            else:
                end = self._skip(_TOKEN, pos)
                end = pos + len(text[pos:end].rstrip())
                values[key] = (pos, end)
                pos = end
            while open_:  # after a value: a comma, the next member, or the end of what encloses it
                pos = self._skip(_GAP, pos)
                if text[pos] in "]}":
                    _, outer, start = open_.pop()
                    counts.pop()
                    pos += 1
                    values[outer] = (start, pos)
                elif text[pos] == ",":
                    pos += 1
                else:
                    break
            if not open_:
                return pos
            bracket, outer, _ = open_[-1]
            if bracket == "[":
                key = (*outer, counts[-1])
                counts[-1] += 1
                self.found.places[key] = pos
            else:
                key, pos = self._left(pos, outer)
