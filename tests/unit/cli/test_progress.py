"""Progress: nothing off a terminal, a line for one node, a board for several, all gone at the end."""

import io
import sys

import pytest

from voxtractl.cli import context, progress, show
from voxtractl.cli.progress import Board
from voxtractl.settings import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: pytest puts its own stderr back between a fixture and its test."""
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    context.configure(Settings())
    return written


def test_one_node_is_one_line_that_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    board = Board()
    board.report("pbx1", "push")
    board.report("pbx1", "verify")
    board.report("pbx1", "")
    board.close()
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_several_nodes_are_a_board_that_counts_those_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    board = Board()
    board.report("pbx1", "push")
    board.report("pbx2", "connect")
    board.report("pbx1", "")
    board.report("pbx2", "verify")
    board.report("pbx3", "connect")
    board.close()
    board.close()
    assert "1 ended, 2 at work" in terminal.getvalue()
    assert "verify" in terminal.getvalue()


def test_nodes_one_after_another_make_a_board_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    board = Board()
    for node in ("pbx1", "pbx2"):
        board.report(node, "push")
        board.report(node, "")
    board.close()
    assert "2 ended, 0 at work" in terminal.getvalue()


def test_off_a_terminal_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    context.configure(Settings())
    progress.reporter()("pbx1", "push")
    assert capsys.readouterr() == ("", "")


def test_verbose_is_a_line_a_step_wherever_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    context.configure(Settings(verbose=True))
    progress.reporter()("pbx1", "push")
    progress.reporter()("pbx1", "")
    assert capsys.readouterr().err == "pbx1: push\n"


def test_json_keeps_even_a_terminal_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    context.configure(Settings(output="json"))
    progress.reporter()("pbx1", "push")
    show.progress("pbx1: push")
    assert terminal.getvalue() == ""
    context.configure(Settings())
