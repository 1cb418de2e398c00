"""Writes docs/reference/handlers.md: what a handler file has, from the signatures and docstrings in the code.

It reads the source, not the loaded classes, so that each release of Python writes the same page. What a class
has beside what stands here is listed too (``hidden``): a new verb is told of, or hidden on purpose.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CLASSES", "VALUES", "Shown", "page", "public_names"]

ROOT: Final = Path(__file__).parents[2] / "voxtractl"
WIDTH: Final = 110


@dataclass(frozen=True)
class Shown:
    """A class of the page: its verbs in this order, its attributes with what they hold."""

    file: str
    name: str
    called: str  # in examples
    verbs: str  # words
    attributes: Mapping[str, str]  # "" takes the property's docstring
    hidden: str = ""  # words: for the runtime's other rooms
    made: bool = False  # by a handler file itself


CLASSES: Final = (
    Shown(
        "runtime/app.py",
        "VoxtraApp",
        "app",
        "route default originate on_startup on_shutdown on_event on_adopt run start stop",
        {
            "calls": "The calls that are up, by `call.id`.",
            "ari": "",
            "is_connected": "",
            "tenant": "The slug under `voxtractl run`, else None.",
        },
        """
        adopt app_name attach audio_bind audio_host audio_ports audio_server blocked breaker busy call
        calls_per_second detach ended give_leg has_hooks is_up keep loop max_channels media media_legs retire
        router session_type settle shut_down start_up stt take take_leg tts usage
        """,
        made=True,
    ),
    Shown(
        "runtime/session.py",
        "CallSession",
        "call",
        """
        answer hangup on_hangup wait_ended
        play_file play_url play play_tone stop
        listen_dtmf on_dtmf send_dtmf
        ring ring_stop hold unhold mute unmute
        get_variable set_variable
        transfer_to_queue transfer transfer_to consult bridge_with continue_in_dialplan
        record_start record_stop snoop audio_stream send_audio say listen
        """,
        {
            "id": "The id of its first channel in Asterisk; it stays.",
            "channel_id": "",
            "direction": "`inbound` or `outbound`.",
            "called_number": "",
            "caller_number": "Who calls; of a call out, who is called.",
            "caller_name": 'The name that comes with it, `""` without one. Whoever calls chooses it.',
            "caller_id": "",
            "metadata": "A dict of this call, at first a copy of the route's `metadata=`.",
            "args": "The arguments of Stasis() without the tenant.",
            "tenant": "The slug under `voxtractl run`, else None.",
            "node": "The node's name under `voxtractl run`, else None.",
            "state": "",
            "is_up": "",
            "is_gone": "",
            "duration": "",
            "queue_left": "",
            "queue_status": "What Asterisk said of it (QUEUESTATUS); None before.",
            "ended": "How it ended, an `Ended`; None before.",
        },
        """
        adopted app attended came came_to claim deliver expect_up fail finish gone has is_fresh left_behind
        line open_leg over post queue_end refuse refused replaced resync told trunk was_sent_on
        """,
    ),
    Shown(
        "audio/leg.py",
        "Leg",
        "leg",
        "receive send drained clear on_digit on_close wait_closed close",
        {
            "rate": "Samples a second of what is received and sent.",
            "queued": "",
            "closed": "",
            "why": "Why it ended: `hangup`, `eof`, `ours` or `error: …`; None while it is open.",
            "counters": "Frames `received`, `sent`, `late`, `unread` and `dropped` since it began.",
        },
    ),
)
# What verbs return: file and class.
VALUES: Final = (
    ("runtime/sounds.py", "Played"),
    ("runtime/digits.py", "Collected"),
    ("runtime/session.py", "Queued"),
    ("runtime/recordings.py", "Recorded"),
    ("runtime/speech/talk.py", "Said"),
    ("runtime/speech/provider.py", "Transcript"),
    ("runtime/lifecycle.py", "Ended"),
)


def page() -> Iterator[str]:
    """The lines of the page."""
    yield from ("# What a handler file has", "")
    yield "`from voxtractl import VoxtraApp, CallSession`. What it is for, with examples:"
    yield "[handlers](../handlers.md). Times are seconds unless it is said otherwise. Every verb that waits"
    yield "for the other side raises `CallEnded` when it is gone; all errors are in [errors](../errors.md)."
    for shown in CLASSES:
        yield from _class(shown)
    yield from ("", "## What verbs return", "")
    for file, name in VALUES:
        found = _class_of(file, name)
        first, *more = (ast.get_docstring(found) or "").split("\n\n")
        yield f"**`{name}`** {_flat(first)}"
        if more:
            yield from ("", *(f"- {_flat(line)}" for line in more[0].splitlines()), "")
        members = [
            f"`{ast.unparse(part.target)}: {_annotation(part.annotation)}`"
            for part in found.body
            if isinstance(part, ast.AnnAssign)
        ]
        if members:
            yield f"Fields: {', '.join(members)}."
        yield ""


def public_names(shown: Shown) -> set[str]:
    """Every public name the class and its objects have, by its source."""
    body = _class_of(shown.file, shown.name).body
    names = {part.name for part in body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
    for part in body:
        names |= set(_assigned(part))
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            targets = (target for line in ast.walk(part) for target in _targets(line))
            names |= {
                target.attr
                for target in targets
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
            }
    return {name for name in names if not name.startswith("_")}


def _class(shown: Shown) -> Iterator[str]:
    found = _class_of(shown.file, shown.name)
    parts = {
        part.name: part
        for part in reversed(found.body)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    aliases = {
        name: part.value.id
        for part in found.body
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Name)
        for name in _assigned(part)
    }
    yield from ("", f"## {shown.name}", "")
    if shown.made:
        yield from ("```", _signature(shown, parts["__init__"], shown.name), "```", "")
    yield from _text(ast.get_docstring(found))
    yield from ("", "| attribute | |", "|---|---|")
    for name, told in shown.attributes.items():
        yield f"| `{shown.called}.{name}` | {told or _flat(ast.get_docstring(parts[name]))} |"
    for name in shown.verbs.split():
        yield from ("", f"### `{shown.called}.{name}`", "")
        if name in aliases:
            yield f"The same as `{aliases[name]}`."
            continue
        yield from ("```", _signature(shown, parts[name], f"{shown.called}.{name}"), "```", "")
        yield from _text(ast.get_docstring(parts[name]))


def _class_of(file: str, name: str) -> ast.ClassDef:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return next(part for part in tree.body if isinstance(part, ast.ClassDef) and part.name == name)


def _signature(shown: Shown, function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    given = function.args
    constants = _constants(shown.file)
    words: list[str] = []
    positional = [*given.posonlyargs, *given.args][1:]  # without self
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    words += [_argument(arg, default, constants) for arg, default in zip(positional, defaults, strict=True)]
    if given.vararg is not None:
        words.append(f"*{_argument(given.vararg, None, constants)}")
    elif given.kwonlyargs:
        words.append("*")
    words += [
        _argument(arg, default, constants)
        for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    told = f" -> {_annotation(function.returns)}" if function.returns and function.name != "__init__" else ""
    begin = f"{'await ' if isinstance(function, ast.AsyncFunctionDef) else ''}{name}("
    line = f"{begin}{', '.join(words)}){told}"
    return line if len(line) <= WIDTH else "\n".join((begin, *(f"    {word}," for word in words), f"){told}"))


def _argument(arg: ast.arg, default: ast.expr | None, constants: Mapping[str, ast.expr]) -> str:
    word = f"{arg.arg}: {_annotation(arg.annotation)}"
    if default is None:
        return word
    if isinstance(default, ast.Name):
        default = constants[default.id]
    return f"{word} = {_source(default)}"


def _constants(file: str) -> Mapping[str, ast.expr]:
    """The module's constants that stand for themselves, and those it imports."""
    found: dict[str, ast.expr] = {}
    for part in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.value, ast.Constant):
            found |= dict.fromkeys(_assigned(part), part.value)
        elif isinstance(part, ast.ImportFrom) and str(part.module).startswith("voxtractl."):
            names = [alias.name for alias in part.names if alias.name.isupper()]
            if names:
                theirs = _constants(f"{str(part.module).removeprefix('voxtractl.').replace('.', '/')}.py")
                found |= {name: theirs[name] for name in names if name in theirs}
    return found


def _annotation(annotation: ast.expr | None) -> str:
    """Without the quotes of a name that is imported for type checkers only."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return "" if annotation is None else _source(annotation)


def _source(expression: ast.expr) -> str:
    return ast.unparse(expression).replace("'", '"')


def _targets(line: ast.AST) -> Iterator[ast.expr]:
    if isinstance(line, ast.Assign):
        for target in line.targets:
            yield from target.elts if isinstance(target, ast.Tuple) else (target,)
    elif isinstance(line, ast.AnnAssign):
        yield line.target


def _assigned(part: ast.AST) -> Iterator[str]:
    return (target.id for target in _targets(part) if isinstance(target, ast.Name))


def _text(docstring: str | None) -> Iterator[str]:
    return (line.replace("``", "`") for line in (docstring or "").splitlines())


def _flat(text: str | None) -> str:
    return " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")
