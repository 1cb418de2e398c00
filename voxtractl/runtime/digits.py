"""Digits of a caller: kept while nobody listens (type-ahead), collected while somebody does. No clock here.

ahead = TypeAhead()                     # pressed before the question
collector = Collector(max_digits=4)     # the question
collector.feed("1")  → None             collector.feed("#")  → Collected("1", ended_by="terminator")
"""

from collections import deque
from typing import Final, Literal

from voxtractl.errors import UsageFault

__all__ = ["AHEAD_MAX", "Collected", "Collector", "EndedBy", "TypeAhead"]

EndedBy = Literal["max", "terminator", "timeout", "hangup"]

AHEAD_MAX: Final = 64  # digits; nobody types more ahead, and a stuck key must not fill the memory
_DIGITS: Final = frozenset("0123456789*#ABCDabcd")


class Collected(str):
    """The digits, without the terminator, and why collecting ended. ``""`` is what timed out at once."""

    __slots__ = ("ended_by",)

    ended_by: EndedBy

    def __new__(cls, digits: str, ended_by: EndedBy) -> "Collected":
        collected = super().__new__(cls, digits)
        collected.ended_by = ended_by
        return collected

    def __getnewargs__(self) -> tuple[str, EndedBy]:  # type: ignore[override]  # str's own has one
        return str(self), self.ended_by

    def __repr__(self) -> str:
        return f"Collected({str(self)!r}, ended_by={self.ended_by!r})"


class TypeAhead:
    """Digits nobody has asked for yet, oldest first. The 65th is dropped: the first answer the question."""

    def __init__(self) -> None:
        self._digits: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._digits)

    def feed(self, digit: str) -> None:
        if len(self._digits) < AHEAD_MAX:
            self._digits.append(digit)

    def take(self) -> str:
        """The oldest digit. Raises IndexError when there is none."""
        return self._digits.popleft()

    def give_back(self, digits: str) -> None:
        """They were taken first, and nobody got them."""
        self._digits.extendleft(reversed(digits))

    def clear(self) -> None:
        self._digits.clear()


class Collector:
    """One question: ends after ``max_digits``, at any of ``terminators``, or when it is given up.

    ``terminators`` may be ``""``. Raises UsageFault for a number below 1 or a terminator no telephone has.
    """

    def __init__(self, max_digits: int = 1, terminators: str = "#") -> None:
        if max_digits < 1:
            raise UsageFault(f"max_digits must be at least 1, not {max_digits}")
        if strange := set(terminators) - _DIGITS:
            raise UsageFault(f"no telephone sends {min(strange)!r}", hint="terminators are of 0-9 * # A-D")
        self._max = max_digits
        self._terminators = frozenset(terminators)
        self._digits: list[str] = []
        self.fed = ""  # the terminator too
        self.done: Collected | None = None

    def __len__(self) -> int:
        """Digits so far, without the terminator."""
        return len(self._digits)

    def feed(self, digit: str) -> Collected | None:
        """One more digit; the result when it was the last. After the end the result stays as it is."""
        if self.done is None:
            self.fed += digit
            if digit in self._terminators:
                return self.give_up("terminator")
            self._digits.append(digit)
            if len(self._digits) == self._max:
                return self.give_up("max")
        return self.done

    def give_up(self, why: EndedBy) -> Collected:
        """End it now with what is there. The first end counts."""
        if self.done is None:
            self.done = Collected("".join(self._digits), why)
        return self.done
