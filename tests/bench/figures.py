"""Measured figures as values, and the table that shows them. Nothing is measured here."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, Literal

__all__ = ["Figure", "NotMeasured", "Spread", "ratio", "table"]

Verdict = Literal["ok", "over", ""]

HEAD: Final = ("what", "measured", "target", "", "spread")


class NotMeasured(Exception):
    """A part cannot be measured here; the sentence says why. It ends this part and no other."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of repeated runs, in seconds unless the caller says otherwise."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)

    def text(self, unit: str = "s") -> str:
        """``median 48 ms (46 to 61, 20 runs)``; seconds are shown as ms below one."""
        factor = 1.0
        if unit == "s" and self.median < 1:
            unit, factor = "ms", 1000.0
        values = [_number(value * factor) for value in (self.median, self.least, self.most)]
        return f"median {values[0]} {unit} ({values[1]} to {values[2]}, {len(self.values)} runs)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a table. ``value`` is compared with ``target``, its upper limit, when there is one."""

    what: str
    value: float | str
    unit: str = ""
    target: float | None = None
    spread: str = ""
    how: str  # the command, or the call, that was measured

    @property
    def verdict(self) -> Verdict:
        if self.target is None or isinstance(self.value, str):
            return ""
        return "ok" if self.value <= self.target else "over"

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def ratio(spread: Spread, base: Spread) -> tuple[float, str]:
    """How many times ``base``, by medians; in words by minima, where the noise is least."""
    return spread.median / base.median, f"{spread.least / base.least:.2f} by minima"


def table(title: str, figures: Sequence[Figure]) -> str:
    """The figures under each other, then how each was measured."""
    rows = [HEAD, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [f"== {title}"]
    lines += ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("how:")
    hows: dict[str, list[str]] = {}
    for figure in figures:
        hows.setdefault(figure.how, []).append(figure.what)
    lines += [f"  {'; '.join(whats) if len(hows) > 1 else 'all'}: {how}" for how, whats in hows.items()]
    return "\n".join(lines) + "\n"


def _row(figure: Figure) -> tuple[str, ...]:
    value = figure.value if isinstance(figure.value, str) else f"{_number(figure.value)} {figure.unit}"
    target = "" if figure.target is None else f"<= {_number(figure.target)} {figure.unit}"
    return figure.what, value, target, figure.verdict, figure.spread


def _number(value: float) -> str:
    """Three digits that count: 1234, 12.3, 1.23, 0.123."""
    if value == int(value) and abs(value) >= 1:
        return str(int(value))
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
