"""What a person and a program see: tables, questions, errors as text and as one document."""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from voxtractl import errors
from voxtractl.cli import context, show
from voxtractl.errors import FleetError, NodeUnreachable, PartialFailure, Reason, UsageFault
from voxtractl.settings import Secret, Settings


class Screen(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    context.configure(Settings())
    yield
    context.configure(Settings())


class Keyboard(io.TextIOWrapper):
    """Where somebody types; a pipe, for a real one can be waited at."""

    def __init__(self, typed: str) -> None:
        there, here = os.pipe()
        os.write(here, typed.encode())
        os.close(here)
        super().__init__(os.fdopen(there, "rb"))

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, typed: TextIO | None = None) -> Screen:
    """stdin, stdout and stderr become a terminal of 40 columns. Not a fixture: pytest sets them per phase."""
    made = Screen()
    monkeypatch.setattr(sys, "stdin", typed or Screen())
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("COLUMNS", "40")
    return made


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert show.table(("SLUG", "N"), [("acme", "1"), ("a-longer-one", "2")]) == (
        "SLUG          N\nacme          1\na-longer-one  2"
    )


def test_columns_stay_aligned_after_wide_and_combined_characters() -> None:
    rows = [("株式会社", "1"), ("Béa", "2"), ("a-longer-one", "3")]
    assert show.table(("NAME", "N"), rows).splitlines()[1:] == [
        "株式会社      1",
        "Béa           2",
        "a-longer-one  3",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    assert show.table(("SLUG", "N"), []) == "SLUG  N"


@pytest.mark.parametrize("no_color", [False, True])
def test_the_last_column_is_wrapped_on_a_terminal_and_nowhere_else(
    no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.configure(Settings(no_color=no_color))
    terminal(monkeypatch)
    rows = [("pbx1", "changes 1 of 1 tenant, 1 DID; 0 deletions"), ("pbx2", "none"), ("pbx3", "")]
    assert show.table(("NODE", "PENDING"), rows).splitlines()[1:] == [
        "pbx1  changes 1 of 1 tenant, 1 DID; 0",
        "      deletions",
        "pbx2  none",
        "pbx3",
    ]
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert show.table(("NODE", "PENDING"), rows).splitlines()[1] == f"pbx1  {rows[0][1]}"


def test_columns_without_room_stand_below_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    context.configure(Settings(no_color=True))
    terminal(monkeypatch)
    rows = [("20260102T030405Z-5d9f3e0b37e0", "ann@laptop", ""), ("x", "bob@desk", "not proven; " * 4)]
    assert show.table(("REVISION", "WHO", "REASON"), rows).splitlines() == [
        "REVISION",
        "    WHO  REASON",
        "20260102T030405Z-5d9f3e0b37e0",
        "    ann@laptop",
        "x",
        "    bob@desk  not proven; not proven;",
        "    not proven; not proven;",
    ]


def test_a_row_that_fits_stands_in_one_line_whatever_the_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    rows = [("a" * 30, "it is long enough to go below"), ("b" * 30, "fits")]
    assert show.table(("NODE", "PENDING"), rows).splitlines()[1:] == [
        "a" * 30,
        "    it is long enough to go below",
        "b" * 30 + "  fits",
    ]


def test_a_line_that_cannot_be_parted_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    assert len(show.table(("A", "B"), [("x" * 100, "y")]).splitlines()[2]) == 40


def test_paint_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    assert show.paint("live", "green") == "\x1b[32mlive\x1b[0m"
    assert show.paint("live", "green", "bold") == "\x1b[32;1mlive\x1b[0m"
    assert show.paint("live", "green", stream=io.StringIO()) == "live"
    context.configure(Settings(no_color=True))
    assert show.paint("live", "green") == "live"


def test_emit_writes_text_or_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    show.emit({"tenant": "acmé"}, "acmé added")
    assert capsys.readouterr().out == "acmé added\n"
    context.configure(Settings(output="json"))
    show.emit({"tenant": "acmé"}, "acmé added")
    assert capsys.readouterr().out == '{"ok": true, "tenant": "acmé"}\n'


def test_text_is_not_made_when_nobody_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    context.configure(Settings(output="json"))

    def expensive() -> str:
        raise AssertionError("made")

    show.emit({}, expensive)
    assert json.loads(capsys.readouterr().out) == {"ok": True}


def test_progress_moves_on_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    show.progress("pbx1: push " + "x" * 100)
    show.progress("")
    first, last = screen.getvalue().split("\r\x1b[K")[1:]
    assert len(first) == 39
    assert last == ""


def test_progress_is_silent_in_a_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    show.progress("pbx1: push")
    assert capsys.readouterr() == ("", "")


def test_a_question_without_a_terminal_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageFault) as caught:
        show.confirm("Push this?")
    assert caught.value.hint == "add --yes"


def test_yes_answers_before_anybody_is_asked() -> None:
    context.configure(Settings(yes=True))
    assert show.confirm("Push this?") is True


@pytest.mark.parametrize(
    ("typed", "answer"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_only_yes_is_yes(typed: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with Keyboard(typed) as keyboard:
        screen = terminal(monkeypatch, keyboard)
        assert show.confirm("Push this?") is answer
    assert screen.getvalue() == "Push this? [y/N] "


# --- errors -----------------------------------------------------------------------------------------------

REASONS = (
    Reason("tenants.toml", 4, 1, "tenants.acme.dids[0]", "belongs to acme and beta", "give it to one"),
    Reason("tenants.toml", 9, 3, "tenants.beta.nme", "unknown key", "did you mean name?"),
)


def test_all_reasons_are_shown_each_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    show.fail(FleetError("2 errors in the document", REASONS))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "tenants.toml:4:1: tenants.acme.dids[0]: belongs to acme and beta; give it to one\n"
        "tenants.toml:9:3: tenants.beta.nme: unknown key; did you mean name?\n"
        "error: 2 errors in the document\n"
    )


def test_a_partial_failure_shows_a_line_for_each_node(capsys: pytest.CaptureFixture[str]) -> None:
    show.fail(PartialFailure("1 of 2 nodes failed", details={"lines": ["pbx1: pushed", "pbx2: no answer"]}))
    assert capsys.readouterr().err.splitlines()[1:] == ["  pbx1: pushed", "  pbx2: no answer"]


def test_an_error_document_has_the_same_keys_for_every_error() -> None:
    document = show.error_document(NodeUnreachable("no answer", node="pbx1", hint="is it up?"))
    assert document == {
        "ok": False,
        "error": {
            "id": "node.unreachable",
            "message": "no answer",
            "where": "node pbx1",
            "hint": "is it up?",
            "retryable": True,
            "details": {"node": "pbx1"},
        },
    }


def test_as_json_the_error_is_the_only_thing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    context.configure(Settings(output="json"))
    show.fail(FleetError("2 errors in the document", REASONS))
    out, err = capsys.readouterr()
    assert err == ""
    assert [row["line"] for row in json.loads(out)["error"]["details"]["reasons"]] == [4, 9]


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_secret_prints_as_stars_even_inside_an_error(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    context.configure(Settings(output="json" if output == "json" else "text"))
    secret = Secret("canary-6f1d0b")
    show.fail(UsageFault(f"{secret!r} {secret}", details={"given": secret}))
    shown = "".join(capsys.readouterr())
    assert "canary-6f1d0b" not in shown
    assert "****" in shown


def tree(of: type[errors.VoxtractlError]) -> set[type[errors.VoxtractlError]]:
    return {of}.union(*(tree(child) for child in of.__subclasses__()))


def test_every_error_has_an_id_of_its_own() -> None:
    ids = [error.id for error in tree(errors.VoxtractlError) if "id" in vars(error)]
    assert len(ids) == len(set(ids))


def test_the_journal_of_systemd_is_told_what_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", journal)
        show.note("a message")
        show.warn("careful")
        show.say(FleetError("2 errors", reasons=REASONS))
        show.say(UsageFault("wrong", hint="do so"))
        journal.seek(0)
        lines = journal.read().splitlines()
    assert lines[:2] == ["a message", "<4>warning: careful"]
    assert len(lines) == 7
    assert [line[:3] for line in lines[2:]] == ["<3>"] * 5
