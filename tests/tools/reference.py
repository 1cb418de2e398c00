"""Writes the part of the documentation that the code already knows: `make docs`.

    docs/reference/commands.md   every command, its arguments, options and exit codes
    docs/reference/document.md   every key of tenants.toml
    docs/reference/handlers.md   what a handler file has: handlers_page.py
    docs/errors.md               the table of errors, between two marks; the rest is written by hand

`tests/unit/test_docs.py` compares these files with what would be written now. What the code cannot tell (what
a key means, how a command may end) stands below as a table that must name every key and every command.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tests.tools import handlers_page
from voxtractl.cli import entry
from voxtractl.errors import VoxtractlError
from voxtractl.model import document
from voxtractl.model.fleet import Defaults
from voxtractl.model.node import Node
from voxtractl.model.tenant import Outbound, Queue, Tenant, Trunk
from voxtractl.settings import PREFIX, Settings

__all__ = ["codes", "commands", "documents", "error_ids", "main"]

ROOT: Final = Path(__file__).parents[2]
BEGIN: Final = "<!-- errors: written by `make docs` -->"
END: Final = "<!-- errors: end -->"
NOTICE: Final = "<!-- Written by `make docs`; edit the code or tests/tools instead. -->"

# How the commands of each kind may end, beside 0, 1 (a bug), 2 (typed wrongly) and 130 (interrupted).
ENDINGS: Final[Mapping[str, str]] = {
    "nothing": "0, 2",
    "document": "0, 2, 3 (the document is wrong)",
    "files": "0, 2, 3 (document, templates or what was rendered)",
    "lab": "0, 1 (no lab can be had), 2",
    "look": "0, 2, 3, 5 (no node answers), 7 (some nodes do)",
    "pending": "0, 2, 3, 5 (a node does not answer), 6 (something is pending, with `--exit-code`)",
    "state": "0, 2, 3, 5 (no node, or no Asterisk, answers), 6 (something is pending, with `--exit-code`),"
    " 7 (some nodes do)",
    "prove": "0, 2, 3, 4, 5, 7 (some nodes), 8 (not proven)",
    "change": "0, 2, 3, 4 (refused), 5, 7 (some nodes), 8 (not proven; the old one is back), 9 (go and look)",
    "push": "0, 2, 3; with `--push` as `dialplan push`",
    "trust": "0, 2, 3, 4 (nothing is trusted yet), 5",
    "serve": "0 (stopped by a signal), 2, 3, 4 (another process took the app), 5, 7 (some have no handler)",
    "call": "0, 1 (what was to follow the answer failed), 2, 3, 5 (no node answers), 20 to 24",
}
KINDS: Final[Mapping[str, str]] = {
    "init": "document",
    "originate": "call",
    "demo": "lab",
    "tenant add": "push",
    "tenant set": "push",
    "tenant remove": "push",
    "tenant list": "document",
    "tenant show": "document",
    "config check": "document",
    "node list": "document",
    "node init": "change",
    "node check": "prove",
    "node trust": "trust",
    "dialplan render": "files",
    "dialplan lint": "files",
    "dialplan plan": "pending",
    "dialplan push": "change",
    "dialplan reload": "prove",
    "dialplan verify": "prove",
    "dialplan status": "state",
    "dialplan rollback": "change",
    "dialplan history": "look",
    "run": "serve",
    "lab up": "lab",
    "lab down": "lab",
    "lab status": "lab",
    "lab cli": "lab",
}

VARIABLES: Final[Mapping[str, str]] = {
    "VOXTRACTL_LAB_HOME": "Where labs live.",
    "NO_COLOR": "Set to anything: no colours, as `--no-color`.",
    "XDG_STATE_HOME": "The local audit file is `voxtractl/audit.jsonl` there. `~/.local/state` when unset.",
    "XDG_CONFIG_HOME": "Keys of `node trust` are in `voxtractl/known_hosts` there. `~/.config` when unset.",
    "XDG_CACHE_HOME": "Labs are in `voxtractl/lab` there, but for the above. `~/.cache` when unset.",
    "VOXTRA_ARI_URL": "Of a handler file that runs alone: Asterisk's HTTP server, when `VoxtraApp` gets no"
    " `ari_url`. `http://127.0.0.1:8088` when unset.",
    "VOXTRA_ARI_USER": "The same for `ari_user`. `voxtractl` when unset.",
    "VOXTRA_ARI_PASSWORD": "The same for `ari_password`.",
}

_SECRET: Final = "exactly one of `…_file`, `…_env`, `…_command`"
MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "defaults": {
        "app_name": "Template of a tenant's Stasis app; `{{ slug }}` is the tenant.",
        "apps": "`per-tenant`, or `shared`: one app for all, the tenant as its first argument."
        " An app costs Asterisk two threads.",
        "workers": "Processes a call may go to, 1 to 64; the next is tried when one is not connected.",
        "trunk_context": "The context of Asterisk in which the carriers' calls arrive.",
        "unmatched": "A number nobody owns: `reject` (cause 1), or the slug of the tenant that takes it.",
    },
    "nodes.NAME": {
        "ari": "Address of Asterisk's HTTP server, without `/ari`.",
        "ari_user": "A user of `ari.conf` that may write.",
        "ari_password_file": f"File that holds the password; {_SECRET}.",
        "ari_password_env": "Environment variable that holds it.",
        "ari_password_command": "Command, as a list of words, that prints it.",
        "store": "Where the files go: `local:/path`, `sftp://user@host[:port]/path`, `memory:NAME`.",
        "config_dir": "Asterisk's configuration folder as the store reaches it; else the store's parent.",
        "identity": "SSH key file for `sftp://`; the agent and the usual keys when absent.",
    },
    "tenants.SLUG": {
        "name": "The tenant's name, for people.",
        "dids": "Its numbers in E.164 form. Each number has one owner.",
        "extensions": "Internal numbers, reachable through the tenant's own trunk and phones.",
        "handler": "The Python program for its calls: `file.py:name`, seen from the document.",
        "app": "Its Stasis app, instead of `defaults.app_name`; at most 73 characters.",
        "max_channels": "Calls at once, in and out together; no limit when absent.",
        "max_media_legs": "Sound to and from handlers at once (`say`, `listen`, `audio_stream`, sinks of"
        " recordings), in one runtime process; 200 when absent.",
        "fallback": "What a caller gets when no program is connected; hang up when absent.",
        "nodes": "The nodes that serve it; all when absent.",
        "trunk": "Its own carrier, see below.",
        "queues": "Its queues, see below.",
        "outbound": "What it may dial; absent: nothing.",
        "templates": "Its own templates instead of voxtractl's; rendered in a sandbox and checked.",
    },
    "tenants.SLUG.trunk": {
        "host": "The carrier's host or address.",
        "port": "The carrier's port.",
        "username": "User name at the carrier.",
        "password_file": f"File that holds the password; {_SECRET}.",
        "password_env": "Environment variable that holds it.",
        "password_command": "Command, as a list of words, that prints it.",
        "codecs": "In the order they are offered.",
        "transport": "A transport of the node's own `pjsip.conf`; Asterisk chooses when absent.",
        "register": "Register with the carrier; needs user name and password.",
        "allow_transfer": "Let the carrier transfer calls to the tenant's numbers by itself (SIP REFER)."
        " Only for one you trust: with calls that end in that moment it can end Asterisk.",
    },
    "tenants.SLUG.queues.NAME": {
        "members": "Endpoints that ring: `PJSIP/agent1`.",
        "strategy": "Asterisk's queue strategy.",
        "timeout": "Seconds a member rings.",
        "max_callers": "Callers that may wait; 0 is no limit.",
        "music": "Music on hold class.",
    },
    "tenants.SLUG.outbound": {
        "caller_ids": "Numbers to call out under; the first is used when none is chosen.",
        "allow": "Prefixes that may be dialled.",
        "deny": "Prefixes that may not. The longest prefix of both lists decides.",
        "calls_per_second": "Starts per second.",
    },
    "tenants.SLUG.fallback": {
        "play": "A sound of Asterisk, without its ending.",
        "dial": "A number, over the tenant's own trunk; needs `trunk` and `outbound`.",
        "queue": "One of the tenant's queues.",
    },
    "tenants.SLUG.templates": {
        "extensions": "Template file for the dialplan.",
        "pjsip": "Template file for endpoints.",
        "queues": "Template file for queues.",
    },
}
REQUIRED: Final = frozenset(
    {"nodes.NAME.ari", "nodes.NAME.ari_user", "nodes.NAME.store"}
    | {"tenants.SLUG.trunk.host", "tenants.SLUG.outbound.caller_ids"}
)
VALUES: Final[Mapping[str, type]] = {
    "defaults": Defaults,
    "nodes.NAME": Node,
    "tenants.SLUG": Tenant,
    "tenants.SLUG.trunk": Trunk,
    "tenants.SLUG.queues.NAME": Queue,
    "tenants.SLUG.outbound": Outbound,
}


def commands() -> Iterator[tuple[str, Any, Any]]:
    """(name, command, its context) of every command that does something, in the order of the first screen."""
    root = entry.build()
    wide = _wide(root)
    for name in entry.COMMANDS:
        group = root.get_command(wide, name)
        ctx = group.context_class(group, info_name=name, parent=wide)
        if not hasattr(group, "list_commands"):
            yield name, group, ctx
            continue
        for verb in group.list_commands(ctx):
            command = group.get_command(ctx, verb)
            yield f"{name} {verb}", command, command.context_class(command, info_name=verb, parent=ctx)


def _wide(root: Any) -> Any:
    """The root's context, as when it is typed, with all the room there is."""
    return root.context_class(
        root,
        info_name="voxtractl",
        **{**root.context_settings, "terminal_width": 1000, "max_content_width": 1000},
    )


def error_ids() -> dict[str, type[VoxtractlError]]:
    """Every error that can be raised, by its id; the command groups may bring errors of their own."""
    for module, _ in entry.COMMANDS.values():
        import_module(module)
    found: dict[str, type[VoxtractlError]] = {}
    waiting = [VoxtractlError]
    while waiting:
        error = waiting.pop(0)
        found.setdefault(error.id, error)
        waiting += error.__subclasses__()
    return dict(sorted(found.items(), key=lambda pair: (pair[1].exit_code, pair[0])))


def documents() -> dict[Path, str]:
    """The generated files as they must be now."""
    page = ROOT / "docs" / "errors.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        ROOT / "docs" / "reference" / "commands.md": "\n".join(_commands_page()) + "\n",
        ROOT / "docs" / "reference" / "document.md": "\n".join(_document_page()) + "\n",
        ROOT / "docs" / "reference" / "handlers.md": "\n".join((NOTICE, "", *handlers_page.page())).rstrip()
        + "\n",
        page: before + BEGIN + "\n\n" + "\n".join(_errors_table()) + "\n\n" + END + after,
    }


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _commands_page() -> Iterator[str]:
    root = entry.build()
    ctx = _wide(root)
    yield from (NOTICE, "", "# Commands", "")
    yield "Results go to stdout, messages to stderr. What each exit code means: [errors](../errors.md)."
    yield from ("", "## Global options and their variables", "")
    yield "They may stand anywhere on the line. The line wins over the environment, that over the default."
    yield ""
    yield from _table(("option", "variable", "meaning"), _global_rows(root, ctx))
    yield ""
    yield "`voxtractl --install-completion` lets the shell complete commands, options and the names of the"
    yield "document; `--show-completion` prints what it would install."
    yield ""
    yield from _table(("other variable", "meaning"), ((f"`{k}`", v) for k, v in VARIABLES.items()))
    for name, command, own in commands():
        yield from ("", f"## `voxtractl {name}`", "", _flat(command.help), "")
        yield from ("```", _usage(command, own), "```", "")
        records = [(*p.get_help_record(own), p.param_type_name) for p in command.get_params(own)]
        rows = [(f"`{spelled}`", _flat(words)) for spelled, words, _ in records if "--help" not in spelled]
        if rows:
            yield from _table(("argument or option", "meaning"), iter(rows))
            yield ""
        yield f"Exit codes: {ENDINGS[KINDS[name]]}."


def _usage(command: Any, ctx: Any) -> str:
    usage: str = command.get_usage(ctx)
    return usage.removeprefix("Usage: ").replace("{", "").replace("}", "")


def _flat(text: str | None) -> str:
    return " ".join((text or "").split()).replace("``", "`")


def _global_rows(root: Any, ctx: Any) -> Iterator[tuple[str, ...]]:
    names = {f.name for f in fields(Settings)} - {"sources"}
    for parameter in root.get_params(ctx):
        if parameter.name in {"install_completion", "show_completion"}:  # alone on the line
            continue
        spelled, words = parameter.get_help_record(ctx)
        variable = f"`{PREFIX}{parameter.name.upper()}`" if parameter.name in names else ""
        yield f"`{spelled}`", variable, words


def _document_page() -> Iterator[str]:
    yield from (NOTICE, "", "# tenants.toml", "")
    yield "Every table and key; an unknown one is an error. `tenants.d/*.toml` beside the document may hold"
    yield "tenants too. A password never stands here: a key names its place, and it is read when it is used."
    for place, keys in document.known_keys().items():
        yield from ("", f"## `[{place}]`", "")
        yield from _table(
            ("key", "meaning", "when absent"),
            ((f"`{key}`", MEANINGS[place][key], _default(place, key)) for key in keys),
        )


def _default(place: str, key: str) -> str:
    """The value of an absent key, when it is one that can be written down."""
    if f"{place}.{key}" in REQUIRED:
        return "an error"
    value = _defaults(VALUES[place]).get(key) if place in VALUES else None
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{element}"' for element in value) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f'`"{value}"`' if isinstance(value, str) else f"`{value}`" if isinstance(value, (int, float)) else ""
    )


def _defaults(of: type) -> Mapping[str, Any]:
    """Field → default, of a dataclass or a named tuple."""
    if is_dataclass(of):
        return {field.name: field.default for field in fields(of) if field.default is not MISSING}
    named: Mapping[str, Any] = getattr(of, "_field_defaults", {})
    return named


def _errors_table() -> Iterator[str]:
    rows = (
        (
            f"`{id_}`",
            ", ".join(map(str, codes(error))),
            "yes" if error.retryable else "",
            _flat(vars(error).get("__doc__")) or f"Any error of the kind `{id_}`.",
        )
        for id_, error in error_ids().items()
    )
    return _table(("id", "exit code", "retryable", "meaning"), rows)


def codes(error: type[VoxtractlError]) -> tuple[int, ...]:
    """The exit codes of an error; one that says how a call ended has several."""
    several: Mapping[str, int] = getattr(error, "exit_codes", {})
    return (*several.values(), error.exit_code)


def main() -> None:
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)} written\n")


if __name__ == "__main__":
    main()
