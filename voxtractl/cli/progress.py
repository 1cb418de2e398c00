"""What is being done now, for a person at a terminal: one moving line for one node, a board for several.

The board is drawn by rich, which is imported when a second node begins and never off a terminal.
"""

import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from voxtractl.cli import context, show

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from rich.progress import Progress, TaskID

__all__ = ["Board", "reporter", "wait"]

T = TypeVar("T")


class Board:
    """``report`` is told (node, step) as work goes on; an empty step says that the node has ended."""

    def __init__(self) -> None:
        self._busy: dict[str, str] = {}
        self._ended = 0
        self._rows: dict[str, TaskID] = {}
        self._drawn: Progress | None = None

    def report(self, node: str, step: str) -> None:
        if step:
            self._busy[node] = step
        elif self._busy.pop(node, None) is not None:
            self._ended += 1
        if self._drawn is None and len(self._busy) + self._ended <= 1:
            show.progress(f"{node}: {step}" if step else "")
        else:
            self._draw()

    def close(self) -> None:
        """Take everything off the screen; harmless when nothing is there."""
        show.progress("")
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None
        self._rows.clear()
        self._busy.clear()
        self._ended = 0

    def _draw(self) -> None:
        if self._drawn is None:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            show.progress("")
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[step]}"))
            console = Console(file=sys.stderr)
            self._drawn = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
            self._drawn.start()
            self._rows[""] = self._drawn.add_task("[bold]nodes", step="")
        self._drawn.update(self._rows[""], step=f"{self._ended} ended, {len(self._busy)} at work")
        for node in [name for name in self._rows if name and name not in self._busy]:
            self._drawn.remove_task(self._rows.pop(node))
        for node, step in self._busy.items():
            if node in self._rows:
                self._drawn.update(self._rows[node], step=step)
            else:
                self._rows[node] = self._drawn.add_task(node, step=step)


def _line(node: str, step: str) -> None:
    if step:
        show.note(f"{node}: {step}")


def _nothing(node: str, step: str) -> None:
    """Off a terminal: the result says it all."""


_BOARD: Final = Board()


def reporter() -> Callable[[str, str], None]:
    """Where progress goes: the board on a terminal, a line a step with -v, else nowhere."""
    settings = context.settings()
    if settings.verbose:
        return _line
    if show.is_painted(sys.stderr) and settings.output == "text":
        return _BOARD.report
    return _nothing


def wait(work: Coroutine[Any, Any, T], new_event_loop: "Callable[[], AbstractEventLoop] | None" = None) -> T:
    """Run ``work`` to its end in the command line's event loop; the board is gone afterwards."""
    from voxtractl.cli.entry import wait

    try:
        return wait(work, new_event_loop)
    finally:
        _BOARD.close()
