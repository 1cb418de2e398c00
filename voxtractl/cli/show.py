"""Everything a person or a program sees: results on stdout, messages on stderr, text or JSON.

With ``-o json`` stdout carries exactly one document, on failure too. Colours mean something (green: proven
or added, yellow: changed or careful, red: refused or deleted, bold: names) and only appear on a terminal.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO

from voxtractl.cli.context import settings
from voxtractl.errors import (
    FleetError,
    Interrupted,
    LintFailed,
    UsageFault,
    VoxtractlError,
)

__all__ = [
    "confirm",
    "emit",
    "error_document",
    "fail",
    "give_up",
    "is_painted",
    "need_answer",
    "note",
    "open_streams",
    "paint",
    "progress",
    "results",
    "say",
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

ERROR: Final = 3  # levels of syslog, for systemd's journal
WARNING: Final = 4
INFO: Final = 6  # what it takes by itself

results: TextIO | None = None  # where the result of a command goes when stdout is not for it alone

_GAP: Final = "  "  # between two columns
_LAST: Final = 20  # what the last column needs at least to be wrapped in its place


def open_streams() -> None:
    """Make the standard streams fit for use: closed ones (``>&-``) become /dev/null, and what the locale has
    no character for is written as ``?``."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  until the end
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def give_up(stream: TextIO) -> None:
    """Nobody reads this stream any more, or it takes nothing: nothing may go there, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_painted(stream: TextIO) -> bool:
    """Whether a person looks at this stream and wants colours there, and lines that move."""
    plain = settings().no_color or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def width(default: int = 80) -> int:
    from shutil import get_terminal_size

    return get_terminal_size((default, 24)).columns


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """``text`` in the given styles when ``stream`` (stdout when None) is a terminal."""
    if not styles or not is_painted(stream or sys.stdout):
        return text
    return f"\x1b[{';'.join(_CODES[s] for s in styles)}m{text}\x1b[0m"


def emit(data: Mapping[str, Any], text: str | Callable[[], str]) -> None:
    """The result of a command: ``data`` as one JSON document, or ``text`` for a person."""
    out = results or sys.stdout
    if settings().output == "json":
        out.write(_json({"ok": True, **data}))
        return
    shown = text if isinstance(text, str) else text()
    if shown:
        out.write(shown if shown.endswith("\n") else shown + "\n")


def _json(data: Mapping[str, Any]) -> str:
    """One line; only ASCII where the locale has not every character."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    return json.dumps(data, ensure_ascii=not unicode, default=str) + "\n"


def note(message: str, level: int = INFO) -> None:
    """A message on the way (progress, what is being done); never part of the result."""
    _tell(message + "\n", level)


def _tell(text: str, level: int = INFO) -> None:
    if level < INFO and "JOURNAL_STREAM" in os.environ:
        from voxtractl.runtime.service import journal_reads, levelled

        if journal_reads(sys.stderr):
            text = levelled(text.removesuffix("\n"), level) + "\n"
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # nobody can be told; the work goes on
        give_up(sys.stderr)


def progress(message: str) -> None:
    """One line that moves on a terminal; an empty message wipes it. Elsewhere nothing is written."""
    if is_painted(sys.stderr) and settings().output == "text":
        _tell(f"\r\x1b[K{message[: width() - 1]}")


def warn(message: str) -> None:
    note(paint("warning: ", "yellow", stream=sys.stderr) + message, WARNING)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns, a line a row. Where a row is wider than the terminal its last column is wrapped, or
    the columns that have no room at all stand below it."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(_cells(row[i]) for row in lines) for i in range(len(head))]
    room = width() if sys.stdout.isatty() else None
    first, *rest = (_row(cells, widths, room) for cells in lines)
    return "\n".join([*(paint(line, "bold") for line in first), *chain.from_iterable(rest)])


def _row(cells: Sequence[str], widths: Sequence[int], room: int | None) -> list[str]:
    """One row of a table in as many lines as it needs."""
    from textwrap import wrap

    whole = _GAP.join(map(_pad, cells, widths)).rstrip()
    if room is None or _cells(whole) <= room:
        return [whole]
    ends = [sum(widths[: i + 1]) + len(_GAP) * i for i in range(len(widths))]
    fits = max(1, sum(end <= room for end in ends))
    line = _GAP.join(map(_pad, cells[:fits], widths[:fits]))
    start = _cells(line) + len(_GAP)
    if fits == len(cells) - 1 and room - start >= _LAST:
        last = wrap(cells[-1], room - start)
        return [
            f"{line}{_GAP}{last[0]}" if last else line.rstrip(),
            *(" " * start + more for more in last[1:]),
        ]
    if len(line) > room:
        line = line[: room - 1] + "…"
    below = _GAP.join(cell for cell in cells[fits:] if cell)
    indent = _GAP * 2
    return [line.rstrip(), *wrap(below, room, initial_indent=indent, subsequent_indent=indent)]


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    """The columns that a text takes on a terminal: Chinese, Japanese and Korean ones take two a character."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum((east_asian_width(c) in "WF") + 1 for c in text if not combining(c))


def need_answer() -> None:
    """Raises UsageFault unless ``confirm`` will have an answer: for commands that write before they ask."""
    if not settings().yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageFault("there is no terminal to confirm on", hint="add --yes")


def confirm(question: str) -> bool:
    """Ask on the terminal; ``--yes`` answers. Raises UsageFault when there is nobody to ask."""
    need_answer()
    if settings().yes:
        return True
    try:
        _tell(f"{question} [y/N] ")
        return _typed().strip().lower() in {"y", "yes"}
    except KeyboardInterrupt:
        note("")  # what is said next begins a line
        raise


def _typed() -> str:
    """A line of the terminal. Ctrl-C may come when the question is shown and the read has not begun, which
    would see nothing of it until the next key: so both are waited for first."""
    import select
    import signal

    came, comes = os.pipe()
    os.set_blocking(comes, False)
    before = signal.set_wakeup_fd(comes)
    try:
        while sys.stdin not in select.select([sys.stdin, came], [], [])[0]:
            os.read(came, 512)  # of a signal that ends nothing
    finally:
        signal.set_wakeup_fd(before)
        os.close(came)
        os.close(comes)
    return sys.stdin.readline()


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
            "details": dict(error.details),
        },
    }


def fail(error: VoxtractlError) -> None:
    """Print an error: where, what, all reasons, the next step."""
    if settings().output == "json":
        (results or sys.stdout).write(_json(error_document(error)))
    else:
        say(error)


def say(error: VoxtractlError) -> None:
    """An error for a person, whatever the form of the result."""
    if isinstance(error, Interrupted):
        note(error.message)
    elif isinstance(error, (FleetError, LintFailed)):
        # Each reason carries its own place and its own next step: file:line:col: path: what; todo.
        _tell("".join(f"{reason}\n" for reason in error.reasons), ERROR)
        note(paint("error: ", "red", "bold", stream=sys.stderr) + error.message, ERROR)
    else:
        where = f"{error.where}: " if error.where else ""
        note(paint("error: ", "red", "bold", stream=sys.stderr) + where + error.message, ERROR)
    for line in error.details.get("lines", ()):  # type: ignore[attr-defined]
        note(f"  {line}", ERROR)  # of each node
    if error.hint:
        note(paint("hint:  ", "cyan", stream=sys.stderr) + error.hint, ERROR)
