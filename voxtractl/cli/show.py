"""Everything a person or a program sees: results on stdout, messages on stderr, text or JSON.

With ``-o json`` stdout carries exactly one document, on failure too. Colours mean something (green: proven
or added, yellow: changed or careful, red: refused or deleted, bold: names) and only appear on a terminal.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from voxtractl.cli.context import settings
from voxtractl.errors import FleetError, LintFailed, PartialFailure, UsageFault, VoxtractlError

__all__ = [
    "confirm",
    "emit",
    "error_document",
    "fail",
    "is_terminal",
    "note",
    "paint",
    "progress",
    "table",
    "warn",
    "width",
]

_CODES: Final[Mapping[str, str]] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at this stream and wants colours there."""
    return stream.isatty() and not settings().no_color and "NO_COLOR" not in os.environ


def width(default: int = 80) -> int:
    from shutil import get_terminal_size

    return get_terminal_size((default, 24)).columns


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """``text`` in the given styles when ``stream`` (stdout when None) is a terminal."""
    if not styles or not is_terminal(stream or sys.stdout):
        return text
    return f"\x1b[{';'.join(_CODES[s] for s in styles)}m{text}\x1b[0m"


def emit(data: Mapping[str, Any], text: str | Callable[[], str]) -> None:
    """The result of a command: ``data`` as one JSON document, or ``text`` for a person."""
    if settings().output == "json":
        sys.stdout.write(json.dumps({"ok": True, **data}, ensure_ascii=False) + "\n")
        return
    shown = text if isinstance(text, str) else text()
    if shown:
        sys.stdout.write(shown if shown.endswith("\n") else shown + "\n")


def note(message: str) -> None:
    """A message on the way (progress, what is being done); never part of the result."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def progress(message: str) -> None:
    """One line that moves on a terminal; an empty message wipes it. Elsewhere nothing is written."""
    if is_terminal(sys.stderr) and settings().output == "text":
        sys.stderr.write(f"\r\x1b[K{message[: width() - 1]}")
        sys.stderr.flush()


def warn(message: str) -> None:
    note(paint("warning: ", "yellow", stream=sys.stderr) + message)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns; on a terminal the last column is cut to fit, elsewhere nothing is."""
    body = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *body]) for i in range(len(head))]
    room = width() if is_terminal(sys.stdout) else None
    lines = [_row(list(head), widths, room, "bold"), *(_row(row, widths, room) for row in body)]
    return "\n".join(lines)


def _row(cells: Sequence[str], widths: Sequence[int], room: int | None, *styles: str) -> str:
    line = "  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()
    if room is not None and len(line) > room:
        line = line[: room - 1] + "…"
    return paint(line, *styles)


def confirm(question: str) -> bool:
    """Ask on the terminal; ``--yes`` answers. Raises UsageFault when there is nobody to ask."""
    if settings().yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageFault("there is no terminal to confirm on", hint="add --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def error_document(error: VoxtractlError) -> dict[str, Any]:
    """The JSON form of an error, the same for every command."""
    return {
        "ok": False,
        "error": {
            "id": error.id,
            "message": error.message,
            "where": error.where,
            "hint": error.hint,
            "retryable": error.retryable,
            "details": error.details,
        },
    }


def fail(error: VoxtractlError) -> None:
    """Print an error: where, what, all reasons, the next step."""
    if settings().output == "json":
        sys.stdout.write(json.dumps(error_document(error), ensure_ascii=False, default=str) + "\n")
        return
    if isinstance(error, (FleetError, LintFailed)):
        # Each reason carries its own place and its own next step: file:line:col: path: what; todo.
        sys.stderr.write("".join(f"{reason}\n" for reason in error.reasons))
        note(paint("error: ", "red", "bold", stream=sys.stderr) + error.message)
    else:
        where = f"{error.where}: " if error.where else ""
        note(paint("error: ", "red", "bold", stream=sys.stderr) + where + error.message)
    if isinstance(error, PartialFailure):
        for line in error.details.get("lines", ()):  # type: ignore[attr-defined]
            note(f"  {line}")
    if error.hint:
        note(paint("hint:  ", "cyan", stream=sys.stderr) + error.hint)
