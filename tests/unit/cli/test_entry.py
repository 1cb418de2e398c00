"""The command line's frame: options anywhere, one exit for every ending, one document for -o json.

In-process where a return code is enough; a real process, pipe or terminal where these are what is tested.
"""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl import errors
from voxtractl.cli import context, entry, show
from voxtractl.settings import Settings

CANARY: Final = "canary-6f1d0b"


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("VOXTRACTL_") or name == "NO_COLOR":
            monkeypatch.delenv(name)
    context.configure(Settings())
    yield
    context.configure(Settings())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tenants.toml").write_text('[tenants.acme]\ndids = ["+265999000001"]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- options may stand anywhere ---------------------------------------------------------------------------

FLAGS: Final = sorted(name for name, valued in entry.GLOBALS.items() if not valued)
VALUED: Final = sorted(name for name, valued in entry.GLOBALS.items() if valued)

_plain = st.text("abcdefg0+=.", min_size=1, max_size=6)
_words = st.lists(
    st.one_of(
        _plain.map(lambda word: (word,)),
        st.sampled_from(["--push", "--did", "--full"]).map(lambda word: (word,)),
        st.sampled_from(FLAGS).map(lambda word: (word,)),
        st.tuples(st.sampled_from(VALUED), _plain),
        st.tuples(st.sampled_from([name for name in VALUED if name.startswith("--")]), _plain).map(
            lambda pair: (f"{pair[0]}={pair[1]}",)
        ),
    )
)


def is_global(group: Sequence[str]) -> bool:
    return group[0].partition("=")[0] in entry.GLOBALS


@given(_words, st.lists(_plain | st.sampled_from(FLAGS + VALUED)), st.booleans())
def test_global_options_come_first_and_nothing_else_moves(
    groups: list[tuple[str, ...]], after: list[str], dashes: bool
) -> None:
    end = ["--", *after] if dashes else []
    line = [word for group in groups for word in group] + end
    front = [word for group in groups if is_global(group) for word in group]
    rest = [word for group in groups if not is_global(group) for word in group]
    assert entry.globals_first(line) == [*front, *rest, *end]


@given(st.lists(_plain | st.sampled_from([*FLAGS, *VALUED, "--", "-", ""])))
def test_sorting_twice_changes_nothing_and_loses_no_word(line: list[str]) -> None:
    once = entry.globals_first(line)
    assert entry.globals_first(once) == once
    if not once or once[-1] not in VALUED:
        assert sorted(once) == sorted(line)


def test_a_value_that_looks_like_an_option_stays_with_its_option() -> None:
    assert entry.globals_first(["tenant", "list", "-c", "-v"]) == ["-c", "-v", "tenant", "list"]


@pytest.mark.parametrize("option", VALUED)
def test_an_option_without_its_value_is_what_is_told(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["tenant", "list", option]) == 2
    assert f"Option '{option}' requires an argument." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sorted_line"),
    [
        ("tenant list -yv", "-yv tenant list"),
        ("tenant list -yo json x", "-yo json tenant list x"),
        ("tenant list -vojson x", "-vojson tenant list x"),
        ("lab cli -x -5 -yx - -", "lab cli -x -5 -yx - -"),
    ],
)
def test_short_options_in_one_word_go_together(line: str, sorted_line: str) -> None:
    assert entry.globals_first(line.split()) == sorted_line.split()


def test_the_table_of_global_options_is_what_the_root_command_takes() -> None:
    taken = {
        option: not parameter.is_flag
        for parameter in entry.build().params
        for option in parameter.opts
        if parameter.name not in {"version", "help", "install_completion", "show_completion"}
    }
    assert taken == dict(entry.GLOBALS)


@pytest.mark.parametrize(
    "line",
    [
        "-o json tenant list",
        "tenant list -vyo json",
        "tenant -o json list",
        "tenant list -o json",
        "tenant list --output=json",
    ],
)
def test_output_may_be_chosen_anywhere_on_the_line(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.run(line.split()) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


# --- every ending ------------------------------------------------------------------------------------------


def all_errors(of: type[errors.VoxtractlError] = errors.VoxtractlError) -> list[type[errors.VoxtractlError]]:
    return [of, *(deeper for child in of.__subclasses__() for deeper in all_errors(child))]


def test_exit_codes_are_those_of_the_design() -> None:
    assert {error.exit_code for error in all_errors()} == {1, 2, 3, 4, 5, 7, 8, 9, 24, 130}


@pytest.fixture
def endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command group of our own whose verbs end in the ways a command can end."""
    (tmp_path / "group_of_endings.py").write_text(
        "import os, signal, typer\n"
        "from voxtractl.errors import NodeLocked\n"
        "app = typer.Typer(rich_markup_mode=None)\n"
        "@app.command()\n"
        "def bug() -> None: raise ZeroDivisionError('a bug')\n"
        "@app.command()\n"
        "def locked() -> None: raise NodeLocked('ann pushes', where='node pbx1', hint='wait')\n"
        "@app.command()\n"
        "def interrupted() -> None: raise KeyboardInterrupt\n"
        "@app.command()\n"
        "def terminated() -> None: os.kill(os.getpid(), signal.SIGTERM)\n"
        "@app.command()\n"
        "def pending() -> None: raise typer.Exit(6)\n"
        "@app.command()\n"
        "def fine() -> None: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(entry.COMMANDS, "ending", ("group_of_endings", ""))
    yield
    sys.modules.pop("group_of_endings", None)


@pytest.mark.usefixtures("endings")
@pytest.mark.parametrize(
    ("verb", "code"), [("fine", 0), ("bug", 1), ("locked", 4), ("pending", 6), ("interrupted", 130)]
)
def test_every_ending_has_its_exit_code(verb: str, code: int) -> None:
    assert entry.run(["ending", verb]) == code


@pytest.mark.usefixtures("endings")
def test_a_bug_leaves_one_document_on_stdout_and_its_traceback_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert entry.run(["ending", "bug", "-o", "json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["ok"] is False
    assert "ZeroDivisionError" in document["error"]["message"]
    assert "group_of_endings.py" in err


@pytest.mark.usefixtures("endings")
def test_an_error_says_where_what_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    entry.run(["ending", "locked"])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: node pbx1: ann pushes\nhint:  wait\n")


@pytest.mark.usefixtures("endings")
def test_an_interruption_is_told_in_one_word_or_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["ending", "interrupted"]) == 130
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "interrupted")
    assert entry.run(["ending", "interrupted", "-o", "json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["id"] == "interrupted"


@pytest.mark.usefixtures("endings")
def test_sigterm_outside_the_event_loop_ends_a_command_like_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert entry.run(["ending", "terminated", "-o", "json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["id"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before


# --- what was typed wrongly --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("tennant", "tenant"),
        ("dialpln plan", "dialplan"),
        ("tenant lst", "list"),
        ("tenant add --dd", "--did"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(
    line: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert meant in err.splitlines()[0]


@pytest.mark.parametrize(
    "line",
    [
        "tennant -o json",
        "-o json",
        "-o json tenant",
        "dialplan -yo json",
        "-o json tenant add",
        "tenant list --nonsense --output json",
        "lab up --output=json extra",
        "tenant show nobody -o json",
    ],
)
def test_a_usage_error_is_one_json_document(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.run(line.split()) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["id"] == "usage"
    assert document["error"]["hint"]


def test_an_unknown_form_of_output_names_the_two_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run(["-o", "yaml", "tenant", "list"]) == 2
    assert "text and json" in capsys.readouterr().err


def test_no_words_at_all_show_the_first_screen_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.run([]) == 2
    assert "First steps:" in "".join(capsys.readouterr())


def test_help_of_the_root_names_every_command_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert entry.run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, (_, words) in entry.COMMANDS.items():
        assert any(line.split() == [name, *words.split()] for line in lines)


@pytest.mark.parametrize("line", [["--version"], ["-v", "--version"]])
def test_version_is_one_line(line: list[str]) -> None:
    from voxtractl import __version__

    done = subprocess.run(
        [sys.executable, "-m", "voxtractl", *line], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"voxtractl {__version__}\n", "")


def test_version_as_json_is_a_document() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "voxtractl", "--version", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["version"]


# --- signals, pipes, terminals ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_waiting_as_an_interruption(number: signal.Signals) -> None:
    cleaned: list[str] = []

    async def work() -> None:
        import asyncio

        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        entry.wait(work())
    assert cleaned == ["yes"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_wait_hands_back_what_the_work_gave() -> None:
    async def work() -> int:
        return 7

    assert entry.wait(work()) == 7


@pytest.mark.parametrize("line", [["tenant", "list"], ["tenant", "list", "-o", "json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_ends_it_quietly(line: list[str], unbuffered: str, folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "voxtractl", *line],
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


def typed(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A whole line of a shell."""
    return subprocess.run(
        f"{sys.executable} -m voxtractl {line}",
        shell=True,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"), [("tenant list", 0), ("tenant show nobody -o json", 2), ("--help", 0), ("--version", 0)]
)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_stream_that_is_closed_or_full_changes_no_ending(
    line: str, code: int, closed: str, unbuffered: str, folder: Path
) -> None:
    done = typed(f"{line} {closed}", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (code, b"")
    assert bool(done.stdout) is (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize("line", ["tenant list", "tenant list -o json", "--help", "--version"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_told(line: str, unbuffered: str, folder: Path) -> None:
    done = typed(f"{line} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr == b"error: the output could not be written: no space left on device\n"


def test_an_error_document_that_cannot_be_written_is_told_in_words(folder: Path) -> None:
    done = typed("tenant show nobody -o json >/dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: there is no tenant")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_locale_without_the_letters_loses_letters_and_no_json(encoding: str, folder: Path) -> None:
    (folder / "tenants.toml").write_text('[tenants.acme]\nname = "Café №1"\n', encoding="utf-8")
    assert typed("--help", PYTHONIOENCODING=encoding).returncode == 0
    text = typed("tenant show acme", PYTHONIOENCODING=encoding)
    assert (text.returncode, text.stderr) == (0, b"")
    assert "?1" in text.stdout.decode(encoding)
    document = typed("tenant show acme -o json", PYTHONIOENCODING=encoding)
    assert json.loads(document.stdout.decode("ascii"))["values"]["name"] == "Café №1"


def test_help_into_head_is_quiet() -> None:
    done = subprocess.run(
        f"{sys.executable} -m voxtractl --help | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: voxtractl")
    assert done.stderr == ""


class Terminal:
    """A pseudo terminal with voxtractl on it."""

    def __init__(self, words: Sequence[str], **environment: str) -> None:
        self.end, other = pty.openpty()
        kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "voxtractl", *words],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**kept, "TERM": "xterm", **environment},
            start_new_session=True,
        )
        os.close(other)

    def read_until(self, text: str = "\0") -> str:
        """What the terminal shows until ``text`` comes, or until the end."""
        shown = b""
        while text.encode() not in shown:
            try:
                piece = os.read(self.end, 4096)
            except OSError:  # EIO: the other side is closed
                break
            if not piece:
                break
            shown += piece
        return shown.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def code(self) -> int:
        code = self.process.wait(30)
        os.close(self.end)
        return code


def test_colours_are_for_terminals(folder: Path) -> None:
    terminal = Terminal(["tenant", "list"])
    assert "\x1b[1m" in terminal.read_until()
    assert terminal.code() == 0
    piped = subprocess.run(
        [sys.executable, "-m", "voxtractl", "tenant", "list"], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in piped.stdout + piped.stderr


@pytest.mark.parametrize(
    ("words", "environment"),
    [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"NO_COLOR": ""}), ([], {"TERM": "dumb"})],
)
def test_colours_can_be_refused(words: list[str], environment: dict[str, str], folder: Path) -> None:
    terminal = Terminal(["tenant", "list", *words], **environment)
    shown = terminal.read_until()
    assert terminal.code() == 0
    assert "acme" in shown
    assert "\x1b" not in shown


def test_ctrl_c_at_a_question_ends_with_130_and_changes_nothing(folder: Path) -> None:
    before = (folder / "tenants.toml").read_bytes()
    terminal = Terminal(["tenant", "remove", "acme"])
    assert "[y/N]" in terminal.read_until("[y/N] ")
    terminal.process.send_signal(signal.SIGINT)
    shown = terminal.read_until()
    assert terminal.code() == 130
    assert "Traceback" not in shown
    assert (folder / "tenants.toml").read_bytes() == before


def test_ctrl_c_ends_a_question_also_when_the_read_does_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came a moment before; here another thread has it."""
    ours, theirs = pty.openpty()
    asked, ended, answered = threading.Event(), threading.Event(), threading.Event()

    def presses() -> None:
        asked.wait(10)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not ended.wait(10):
            answered.set()
            os.write(ours, b"n\n")

    class Shown(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if "[y/N]" in text:
                asked.set()
            return super().write(text)

    finger = threading.Thread(target=presses)
    finger.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with os.fdopen(theirs) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            monkeypatch.setattr(sys, "stderr", Shown())
            with pytest.raises(KeyboardInterrupt):
                show.confirm("Remove acme?")
    finally:
        ended.set()
        finger.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(ours)
    assert not answered.is_set()


def test_an_answer_in_no_encoding_is_not_yes(folder: Path) -> None:
    terminal = Terminal(["tenant", "remove", "acme"], PYTHONIOENCODING="utf-8:strict")
    terminal.read_until("[y/N] ")
    os.write(terminal.end, b"\xff\n")
    assert "Traceback" not in terminal.read_until()
    terminal.code()
    assert "acme" in (folder / "tenants.toml").read_text()


@pytest.mark.parametrize(("answer", "left"), [("y\n", False), ("n\n", True), ("\n", True)])
def test_a_question_on_the_terminal_takes_yes_and_nothing_else(answer: str, left: bool, folder: Path) -> None:
    terminal = Terminal(["tenant", "remove", "acme"])
    terminal.read_until("[y/N] ")
    terminal.type(answer)
    terminal.read_until()
    terminal.code()
    assert ("acme" in (folder / "tenants.toml").read_text()) is left


# --- secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "line", ["config check", "tenant list", "tenant show acme", "dialplan render", "dialplan plan"]
)
def test_no_command_shows_a_secret(
    line: str, form: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "secret").write_text(CANARY)
    (folder / "tenants.toml").write_text(
        "[nodes.pbx1]\n"
        'ari = "http://127.0.0.1:9"\n'
        'ari_user = "voxtractl"\n'
        'ari_password_file = "secret"\n'
        f'store = "local:{folder}/asterisk/voxtractl"\n\n'
        '[tenants.acme]\ndids = ["+265999000001"]\n\n'
        "[tenants.acme.trunk]\n"
        'host = "sip.carrier.example"\nusername = "acme"\npassword_file = "secret"\n'
    )
    (folder / "asterisk").mkdir()
    assert entry.run([*line.split(), "-v", "-o", form]) == 0
    out, err = capsys.readouterr()
    assert out
    assert CANARY not in out + err


SECONDS: Final = pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300"])


@SECONDS
def test_a_timeout_that_is_no_time_to_wait_is_a_typing_error(seconds: str, folder: Path) -> None:
    assert entry.run(["--timeout", seconds, "config", "check"]) == 2


@SECONDS
def test_a_timeout_that_is_no_time_to_wait_in_the_environment_is_told(
    seconds: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOXTRACTL_TIMEOUT", seconds)
    assert entry.run(["config", "check"]) == 3


@pytest.mark.parametrize("words", [["tenat", "-ojson"], ["tenat", "-o", "json"], ["--output=json", "tenat"]])
def test_json_is_honoured_however_it_is_attached(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.run(words) == 2
    assert json.loads(capsys.readouterr().out)["error"]["id"] == "usage"
