"""Assembly of the command line, its one ``asyncio.run``, and the one place where errors become exit codes.

Command groups are imported when they are used: the first screen and a typing error load typer and nothing
else. The words of a group on the first screen therefore stand here, in one table.
"""

import errno
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer
from typer.core import TyperGroup

from voxtractl.cli import complete, context, show
from voxtractl.errors import Interrupted, OutputFailed, UsageFault, VoxtractlError
from voxtractl.settings import LONGEST, Settings

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["COMMANDS", "SIGNALS", "Commands", "build", "globals_first", "run", "wait"]

T = TypeVar("T")

# name → (module with `app`, one line on the first screen), in the order a new operator meets them
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "init": ("voxtractl.cli.init", "Start: write a commented tenants.toml."),
    "demo": ("voxtractl.cli.demo", "See it all work on a private Asterisk, in a minute."),
    "tenant": ("voxtractl.cli.tenant", "Add, list, show, set, remove tenants."),
    "config": ("voxtractl.cli.config", "Check the document."),
    "node": ("voxtractl.cli.node", "List, prepare, check and trust Asterisk nodes."),
    "dialplan": ("voxtractl.cli.dialplan", "Plan, push, reload, prove and roll back."),
    "run": ("voxtractl.cli.run", "Serve the tenants' calls with their handlers."),
    "originate": ("voxtractl.cli.originate", "Call a number for a tenant."),
    "lab": ("voxtractl.cli.lab", "A private, real Asterisk to try things on."),
}

# long and short form → whether a value follows
GLOBALS: Final[Mapping[str, bool]] = {
    "--config": True,
    "-c": True,
    "--node": True,
    "-n": True,
    "--output": True,
    "-o": True,
    "--templates": True,
    "--timeout": True,
    "--yes": False,
    "-y": False,
    "--no-color": False,
    "--verbose": False,
    "-v": False,
}

_COMPLETION: Final = frozenset({"--install-completion", "--show-completion"})

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what may end a process early
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # stdout takes no more

FIRST_STEPS: Final = """\
First steps:
  voxtractl init                                 a tenants.toml to start from
  voxtractl tenant add acme --did +265999000001 --push
  voxtractl dialplan status                      is every node as it should be?

Global options may stand anywhere on the line. VOXTRACTL_CONFIG,
VOXTRACTL_OUTPUT, … set them from the environment. Exit codes: docs/errors.md."""


class Commands(TyperGroup):
    """The root group: knows the names of its commands, imports each when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not _COMPLETION.isdisjoint(args):
            _load_in_zsh()
        try:  # a shell that completes a line comes here too
            return super().parse_args(ctx, globals_first(args))
        except OSError as exc:
            if exc.filename is None:
                raise
            raise UsageFault(
                f"--install-completion: {exc.filename} cannot be written: {str(exc.strerror).lower()}",
                hint="--show-completion prints what it would install",
            ) from exc

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(COMMANDS[cmd_name][0]).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:  # a shell that completes a line
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n" + FIRST_STEPS + "\n")


def build() -> Any:
    """The root command, without any group loaded."""
    app = typer.Typer(
        cls=Commands,
        name="voxtractl",
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    return typer.main.get_command(app)


def _root(
    config: Path | None = typer.Option(
        None, "--config", "-c", help="The document. [tenants.toml]", show_default=False
    ),
    node: list[str] | None = typer.Option(
        None,
        "--node",
        "-n",
        help="Only this node; repeatable.",
        show_default=False,
        autocompletion=complete.nodes,
    ),
    output: str | None = typer.Option(
        None,
        "--output",
        "-o",
        metavar="text|json",
        help="Form of the result.",
        show_default=False,
        autocompletion=complete.forms,
    ),
    templates: Path | None = typer.Option(
        None, "--templates", help="Templates of your own.", show_default=False
    ),
    timeout: float | None = typer.Option(
        None, "--timeout", help="Seconds for one step on a node. [30]", show_default=False
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask.", show_default=False),
    no_color: bool = typer.Option(False, "--no-color", help="Plain text.", show_default=False),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more.", show_default=False),
    version: bool = typer.Option(
        False, "--version", help="Show the version.", is_eager=True, callback=lambda v: _version(v)
    ),
) -> None:
    """The operator's tool for voice tenants on Asterisk: one reviewed file, a proven dialplan."""
    typed: dict[str, Any] = {
        "config": config,
        "node": tuple(node) if node else None,
        "output": output,
        "templates": templates,
        "timeout": timeout,
        "yes": yes or None,
        "no_color": no_color or None,
        "verbose": verbose or None,
    }
    if timeout is not None and not 0 < timeout <= LONGEST:  # nor nan
        raise UsageFault(f"--timeout {timeout:g}: not a time to wait", hint="give seconds, at most 86400")
    if output not in {None, "text", "json"}:
        raise UsageFault(f"--output {output}: there is text and json", hint="use -o text or -o json")
    context.configure(Settings.load({k: v for k, v in typed.items() if v is not None}))


def _version(wanted: bool) -> None:
    if wanted:
        from voxtractl import __version__

        show.emit({"version": __version__}, f"voxtractl {__version__}")
        raise typer.Exit


def globals_first(words: Sequence[str]) -> list[str]:
    """The words with the global options in front, so that they may stand anywhere; ``--`` ends this.

    One at the end that has no value yet stands alone with them: it is what the line is about.
    """
    front: list[str] = []
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return [*front, *rest, word, *queue]
        name, equals, _ = word.partition("=")
        valued = GLOBALS.get(word, _cluster(word))
        if valued is not None or (equals and GLOBALS.get(name)):  # --output=json
            front.append(word)
            if valued and not queue:
                return front
            if valued:
                front.append(queue.pop(0))
        else:
            rest.append(word)
    return [*front, *rest]


def _load_in_zsh() -> None:
    """zsh loads the file that is installed at the first Tab, and runs it to complete. Typer's only says there
    how to complete, so that the first Tab of each shell offered nothing."""
    from typer import _completion_shared as completion

    completion._completion_scripts["zsh"] += (
        '\n[[ $zsh_eval_context[-1] != loadautofunc ]] || %(complete_func)s "$@"\n'
    )


def _cluster(word: str) -> bool | None:
    """Short options in one word, ``-yv`` or ``-yojson``: whether the next word is a value; None: not ours."""
    if not re.fullmatch("-[a-z].*", word, re.DOTALL):
        return None
    for at, letter in enumerate(word[1:], 2):
        valued = GLOBALS.get(f"-{letter}")
        if valued is None or valued:
            return valued and at == len(word)
    return False


def run(words: Sequence[str], *, last: bool = False) -> int:
    """Run one command line; returns the exit code. Every ending of a command passes through here.

    ``last``: the process ends with it, and no signal that comes at its end may change its exit code.
    """
    with _terminable(last=last):
        try:
            show.open_streams()
            _early_output(words)
            ended = build().main(args=list(words), prog_name="voxtractl", standalone_mode=False)
            if ended == Interrupted.exit_code:  # what typer makes of Ctrl-C
                return _fail(Interrupted("interrupted"))
            sys.stdout.flush()
        except VoxtractlError as error:
            return _fail(error)
        except (typer.Abort, KeyboardInterrupt):
            return _fail(Interrupted("interrupted"))
        except typer.TyperException as error:  # how typer says that the line was typed wrongly
            return _usage(error)
        except (BrokenPipeError, SystemExit) as end:
            if isinstance(end, SystemExit) and not end.code:  # typer has completed a word for the shell
                return 0
            # The reader went away (`| head`); typer tells it with sys.exit when it was the first to notice.
            show.give_up(sys.stdout)
            return 141
        except Exception as error:  # noqa: BLE001  the last wall: a bug must still leave one JSON document
            return _unwritten(error) or _bug(error)
    return ended if isinstance(ended, int) else 0


@contextmanager
def _terminable(*, last: bool) -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C, so that it cleans up; only the main thread may say so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            if last or handler is not None:  # None: not Python's
                signal.signal(number, signal.SIG_IGN if last else handler)


def _fail(error: VoxtractlError) -> int:
    """The code of an error that was told, or could not be."""
    try:
        show.fail(error)
        sys.stdout.flush()
    except OSError:
        show.give_up(sys.stdout)
        if context.settings().output == "json":  # else it is told already
            show.say(error)
    return error.exit_code


def _unwritten(error: Exception) -> int | None:
    """The code when it was stdout that could not be written. An OSError about a file names it."""
    if not isinstance(error, OSError) or error.filename is not None or error.errno not in _FULL:
        return None
    show.give_up(sys.stdout)
    failed = OutputFailed(f"the output could not be written: {(error.strerror or str(error)).lower()}")
    show.say(failed)
    return failed.exit_code


def wait(work: Coroutine[Any, Any, T], new_event_loop: "Callable[[], AbstractEventLoop] | None" = None) -> T:
    """Run a coroutine to its end: the only event loop of the command line, asyncio's unless another is given.

    Ctrl-C and SIGTERM cancel it, each time they come. Asyncio's own way with a second Ctrl-C raises in the
    middle of the loop, which cuts what undoes a push, or loses the wake-up of a thread (measured).
    """
    import asyncio

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it runs
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    before = signal.getsignal(signal.SIGTERM)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(guarded())
    except asyncio.CancelledError as exc:
        raise KeyboardInterrupt from exc
    finally:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # else the work has said so, at its end
            signal.signal(signal.SIGTERM, before)  # asyncio leaves the default


def _early_output(words: Iterable[str]) -> None:
    """Let errors of the command line itself honour ``-o json``, before typer has read it."""
    if re.search(r"(^| )(-[a-z]*o ?|--output[ =])json( |$)", " ".join(words)):
        context.configure(Settings(output="json"))


def _usage(error: typer.TyperException) -> int:
    ctx = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        if context.settings().output == "text":
            show.note(message)
            return 2
        message = "Missing command."
    path = ctx.command_path if ctx is not None else "voxtractl"
    return _fail(UsageFault(message, hint=f"{path} --help"))


def _bug(error: Exception) -> int:
    import traceback

    show.note("".join(traceback.format_exception(error)).rstrip())
    return _fail(
        VoxtractlError(
            f"voxtractl itself failed: {type(error).__name__}",
            hint="this is a bug; report it with the lines above",
        )
    )
