"""`voxtractl tenant`: the tenants of the document, added, listed, shown, set and removed.

A change takes the document's lock, edits the text of one file, reads the whole result as every command would
read it, and only then writes that file. The rules of the document live in ``voxtractl.model``; what a push
does lives in ``voxtractl.cli.dialplan``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from voxtractl import files
from voxtractl.cli import complete, context, show
from voxtractl.errors import DocumentError, FleetError, Reason, UsageFault
from voxtractl.files import Source
from voxtractl.model import document
from voxtractl.model.fleet import Fleet, must_know
from voxtractl.model.keys import Key
from voxtractl.model.tenant import Tenant

__all__ = ["app"]

app = typer.Typer(
    help="The tenants of the document: add, list, show, set, remove.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

PUSH: Final = typer.Option(False, "--push", help="Then push to the nodes and prove it live.")
NEW: Final = typer.Argument(metavar="SLUG", help="The tenant's short name.")
SLUG: Final = typer.Argument(metavar="SLUG", help="The tenant's short name.", autocompletion=complete.tenants)

# How `tenant set KEY=VALUE` reads a value that is not spelled as TOML. Everything else is text.
LISTS: Final = frozenset(
    {"dids", "extensions", "nodes", "codecs", "members", "caller_ids", "allow", "deny", "password_command"}
)
SCALARS: Final = frozenset(
    {
        "max_channels",
        "max_media_legs",
        "port",
        "register",
        "allow_transfer",
        "timeout",
        "max_callers",
        "calls_per_second",
    }
)


@app.command()
def add(
    slug: str = NEW,
    name: str = typer.Option(None, "--name", help="Name for people.", show_default=False),
    did: list[str] = typer.Option(
        None, "--did", help="A number of the tenant, +265…; repeatable.", show_default=False
    ),
    extension: list[str] = typer.Option(
        None, "--extension", help="An internal number; repeatable.", show_default=False
    ),
    handler: str = typer.Option(
        None, "--handler", metavar="FILE:NAME", help="Its program: handlers/acme.py:app", show_default=False
    ),
    stasis: str = typer.Option(None, "--app", help="Stasis app, if not the usual one.", show_default=False),
    max_channels: int = typer.Option(None, "--max-channels", help="Calls at once.", show_default=False),
    max_media_legs: int = typer.Option(
        None, "--max-media-legs", help="Calls at once that speak or listen.", show_default=False
    ),
    fallback: str = typer.Option(
        None,
        "--fallback",
        metavar="play|dial|queue=…",
        help="When no runtime is connected.",
        show_default=False,
    ),
    trunk_host: str = typer.Option(None, "--trunk-host", help="The carrier's host.", show_default=False),
    trunk_username: str = typer.Option(
        None, "--trunk-username", help="User name at the carrier.", show_default=False
    ),
    trunk_password_file: str = typer.Option(
        None, "--trunk-password-file", help="File that holds the password.", show_default=False
    ),
    trunk_password_env: str = typer.Option(
        None, "--trunk-password-env", help="Variable that holds it.", show_default=False
    ),
    trunk_password_command: str = typer.Option(
        None, "--trunk-password-command", help="Command that prints it.", show_default=False
    ),
    queue: list[str] = typer.Option(
        None, "--queue", metavar="NAME=MEMBER,…", help="A queue; repeatable.", show_default=False
    ),
    caller_id: list[str] = typer.Option(
        None, "--caller-id", help="Number to call out under; repeatable.", show_default=False
    ),
    allow: list[str] = typer.Option(
        None, "--allow", help="Prefix that may be dialled; repeatable.", show_default=False
    ),
    deny: list[str] = typer.Option(
        None, "--deny", help="Prefix that may not; repeatable.", show_default=False
    ),
    push: bool = PUSH,
) -> None:
    """Add a tenant to the document; with --node, for these nodes only.

    With a tenants.d folder beside the document the tenant gets its own file there.
    """
    values = {
        "name": name,
        "dids": did,
        "extensions": extension,
        "handler": handler,
        "app": stasis,
        "max_channels": max_channels,
        "max_media_legs": max_media_legs,
        "fallback": _pair(fallback, "--fallback", "play=vm-goodbye") if fallback else None,
        "nodes": list(_typed_nodes()),
        "trunk": {
            "host": trunk_host,
            "username": trunk_username,
            "password_file": trunk_password_file,
            "password_env": trunk_password_env,
            "password_command": _words(trunk_password_command),
        },
        "queues": {
            short: {"members": [member for member in members.split(",") if member]}
            for text in queue or ()
            for short, members in _pair(text, "--queue", "support=PJSIP/agent1").items()
        },
        "outbound": {"caller_ids": caller_id, "allow": allow, "deny": deny},
    }
    if push:
        show.need_answer()
    file = _add(context.settings().config, slug, _filled(values))
    _done({"tenant": slug, "file": file, "changed": True}, f"{slug} added to {file}", push)


@app.command("set")
def set_(
    slug: str = SLUG,
    changes: list[str] = typer.Argument(
        metavar="KEY=VALUE...",
        help='max_channels=20, trunk.host=…, dids=+2651,+2652; "KEY=" removes the key.',
    ),
    push: bool = PUSH,
) -> None:
    """Change keys of a tenant.

    KEY=VALUE with dotted keys; `KEY=` takes it out. Everything else in the file stays as it is.
    """
    values = dict(_assignment(text) for text in changes)
    if push:
        show.need_answer()
    file, changed = _set(context.settings().config, slug, values)
    text = f"{slug} changed in {file}" if changed else f"{slug} is so already"
    _done({"tenant": slug, "file": file, "changed": changed}, text, push)


@app.command()
def remove(slug: str = SLUG, push: bool = PUSH) -> None:
    """Remove a tenant from the document.

    Its numbers then belong to nobody.
    """
    settings = context.settings()
    tenant = _tenant(_fleet(settings.config), slug, settings.config)
    count = f"{len(tenant.dids)} DIDs" if len(tenant.dids) != 1 else tenant.dids[0]
    if not show.confirm(f"Remove {slug} ({count}) from {tenant.file}?"):
        show.emit({"changed": False}, "nothing was removed")
        return
    file = _remove(settings.config, slug)
    _done({"tenant": slug, "file": file, "changed": True}, f"{slug} removed from {file}", push, removed=1)


@app.command("list")
def list_() -> None:
    """List the tenants; with --node, those of these nodes."""
    settings = context.settings()
    fleet = _fleet(settings.config)
    for node in settings.node:
        must_know("node", node, fleet.nodes, settings.config)
    tenants = [t for _, t in sorted(fleet.tenants.items()) if _is_on(t, settings.node)]
    show.emit(
        {"tenants": [_row(tenant, fleet) for tenant in tenants]},
        lambda: _listing(tenants),
    )


@app.command("show")
def show_(slug: str = SLUG) -> None:
    """Show a tenant: every value, and where it comes from."""
    config = context.settings().config
    sources = files.read_sources(config)
    fleet = document.parse(sources)
    facts = _facts(_tenant(fleet, slug, config), fleet)
    finder = document.Finder(sources)
    origins = {key: _origin(finder, fleet, slug, key) for key in facts}
    rows = [(key, _text(value), origins[key]) for key, value in facts.items()]
    show.emit({"tenant": slug, "values": facts, "origins": origins}, lambda: show.table(_HEAD, rows))


# --- changes ----------------------------------------------------------------------------------------------

Change = Callable[[Sequence[Source]], Source | None]  # the one source that changes; None: nothing does


def _add(config: Path, slug: str, values: Mapping[str, Any]) -> str:
    """Add a tenant; the file it stands in now."""
    if fault := document.slug_fault(slug):
        raise UsageFault(fault[0], hint=fault[1])
    folder = config.parent / files.FOLDER
    file = str(folder / f"{slug}.toml") if folder.is_dir() else str(config)

    def change(sources: Sequence[Source]) -> Source:
        from voxtractl.model import edit

        if found := document.place(sources, ("tenants", slug)):
            raise DocumentError(
                f"tenant {slug} exists already",
                file=found[0],
                line=found[1],
                col=found[2],
                hint=f"change it with `voxtractl tenant set {slug} KEY=VALUE`",
            )
        old = next((source.text for source in sources if source.file == file), "")
        return Source(file, edit.add_tenant(old, slug, values, file=file))

    _rewrite(config, slug, change)
    return file


def _set(config: Path, slug: str, values: Mapping[str, Any]) -> tuple[str, bool]:
    """Set keys of a tenant; its file, and whether anything changed."""
    seen: list[str] = []

    def change(sources: Sequence[Source]) -> Source | None:
        from voxtractl.model import edit

        source = _source_of(sources, slug, config)
        seen.append(source.file)
        _refuse_unknown(values, source.file, slug)
        text = edit.set_values(source.text, slug, values, file=source.file)
        return None if text == source.text else Source(source.file, text)

    changed = _rewrite(config, slug, change)
    return seen[0], changed


def _remove(config: Path, slug: str) -> str:
    """Remove a tenant; the file it stood in. A file of tenants.d that says nothing any more goes too."""
    seen: list[str] = []

    def change(sources: Sequence[Source]) -> Source:
        from voxtractl.model import edit

        source = _source_of(sources, slug, config)
        seen.append(source.file)
        text = edit.remove_tenant(source.text, slug, file=source.file)
        return Source(source.file, text if edit.has_statements(text) or source is sources[0] else "")

    _rewrite(config, slug, change)
    return seen[0]


def _rewrite(config: Path, slug: str, change: Change) -> bool:
    """One change of the document, whole or not at all; whether there was anything to change."""
    with files.locked(config), document.collector_paused():
        sources = files.read_sources(config)
        new = change(sources)
        if new is None:
            return False
        others = [source if source.file != new.file else new for source in sources]
        document_after = others if new in others else [*others, new]
        _check(document_after, new, slug)
        if new.text or new.file == sources[0].file:
            files.write(Path(new.file), new.text)
        else:
            files.remove(Path(new.file))
    return True


def _check(sources: Sequence[Source], new: Source, slug: str) -> None:
    """Refuse a change that breaks the document. What is wrong with the change itself has no line yet."""
    try:
        document.parse(sources)
    except FleetError as exc:
        own = f"tenants.{slug}"
        reasons = [
            Reason(r.file, 0, 0, r.path, r.what, r.todo)
            if r.file == new.file and r.path.startswith(own)
            else r
            for r in exc.reasons
        ]
        raise FleetError(f"{exc.message} after this change; nothing was written", sorted(reasons)) from exc


def _source_of(sources: Sequence[Source], slug: str, config: Path) -> Source:
    found = document.place(sources, ("tenants", slug))
    # Not at a glance: the whole document is read, and its errors or the tenant that was meant are told.
    file = found[0] if found else _tenant(document.parse(sources), slug, config).file
    return next(source for source in sources if source.file == file)


def _refuse_unknown(values: Mapping[str, Any], file: str, slug: str) -> None:
    """A mistyped key is an error also when it is to be removed."""
    known = document.known_keys()
    for dotted in values:
        *tables, key = dotted.split(".")
        if tables[:1] == ["queues"] and len(tables) == 2:
            tables[1] = "NAME"
        place = ".".join(["tenants.SLUG", *tables])
        keys = known.get(place, ())
        if key in keys or key == "password" or place == "tenants.SLUG.queues":
            continue  # what is wrong with a password here, and with a queue, the document's own check says
        from voxtractl.model.forms import close

        near = close(key, keys)
        todo = (
            f"did you mean {near}?"
            if near
            else f"known keys: {', '.join(sorted(keys or known['tenants.SLUG']))}"
        )
        path = f"tenants.{slug}.{dotted}"
        raise FleetError("unknown key; nothing was written", [Reason(file, 0, 0, path, "unknown key", todo)])


def _done(data: Mapping[str, Any], text: str, push: bool, *, removed: int = 0) -> None:
    """The end of a change: say so, or go on to the push, which then says it all."""
    if not push:
        show.emit(data, text)
        return
    from voxtractl.cli.dialplan import push_after_edit

    show.note(text)
    push_after_edit(context.settings(), removed=removed)


# --- what was typed ---------------------------------------------------------------------------------------


def _assignment(text: str) -> tuple[str, Any]:
    """``KEY=VALUE`` as typed; a value may be spelled as TOML, or plainly where its key tells the type."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageFault("a change is KEY=VALUE", hint="such as max_channels=20; KEY= removes the key")
    key, raw = key.strip(), raw.strip()
    last = key.rsplit(".", 1)[-1]
    if not raw:
        return key, None
    if raw[0] in "[{\"'" or last in SCALARS:
        return key, _toml(key, raw)
    if last in LISTS:
        return key, [part.strip() for part in raw.split(",") if part.strip()]
    return key, raw


def _toml(key: str, raw: str) -> Any:
    import tomli

    try:
        table = tomli.loads(f"value = {raw}\n")
    except (ValueError, RecursionError):
        table = {}
    if len(table) != 1:
        if key.rsplit(".", 1)[-1] in SCALARS:
            return raw  # the document's own check says what is wrong with it
        raise UsageFault(f"the value of {key} is not TOML", hint='write a text plainly, a list as ["…", "…"]')
    return table["value"]


def _pair(text: str, option: str, example: str) -> dict[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise UsageFault(f"{option} is NAME=VALUE", hint=f"such as {option} {example}")
    return {key.strip(): value.strip()}


def _words(command: str | None) -> list[str] | None:
    if command is None:
        return None
    import shlex

    try:
        return shlex.split(command)
    except ValueError as exc:
        raise UsageFault("--trunk-password-command has an open quote", hint="close it") from exc


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not typed."""
    out = {k: _filled(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in out.items() if v is not None and v != [] and v != {}}


def _typed_nodes() -> tuple[str, ...]:
    settings = context.settings()
    return settings.node if settings.sources.get("node") == "command line" else ()


# --- what is shown ----------------------------------------------------------------------------------------

_HEAD: Final = ("KEY", "VALUE", "FROM")


def _fleet(config: Path) -> Fleet:
    return document.parse(files.read_sources(config))


def _tenant(fleet: Fleet, slug: str, config: Path) -> Tenant:
    must_know("tenant", slug, fleet.tenants, config)
    return fleet.tenants[slug]


def _is_on(tenant: Tenant, nodes: Sequence[str]) -> bool:
    return not nodes or not tenant.nodes or not set(nodes).isdisjoint(tenant.nodes)


def _row(tenant: Tenant, fleet: Fleet) -> dict[str, Any]:
    return {
        "slug": tenant.slug,
        "name": tenant.name,
        "dids": tenant.dids,
        "app": tenant.app,
        "nodes": tenant.nodes or tuple(fleet.nodes),
        "trunk": tenant.trunk.host if tenant.trunk else None,
        "queues": [queue.name for queue in tenant.queues],
        "outbound": tenant.outbound is not None,
        "max_channels": tenant.max_channels,
        "file": tenant.file,
    }


def _listing(tenants: Sequence[Tenant]) -> str:
    if not tenants:
        return "no tenants yet; add one: voxtractl tenant add SLUG --did +265…"
    rows = [(t.slug, t.name, _numbers(t.dids), t.app, ", ".join(t.nodes) or "all") for t in tenants]
    return show.table(("SLUG", "NAME", "DIDS", "APP", "NODES"), rows)


def _numbers(dids: Sequence[str]) -> str:
    few = ", ".join(dids[:2])
    return few if len(dids) <= 2 else f"{few} and {len(dids) - 2} more"


def _facts(tenant: Tenant, fleet: Fleet) -> dict[str, Any]:
    """Every value of a tenant by its dotted key, secrets by the place they are kept."""
    facts: dict[str, Any] = {
        "name": tenant.name,
        "dids": tenant.dids,
        "extensions": tenant.extensions,
        "handler": tenant.handler,
        "app": tenant.app,
        "max_channels": tenant.max_channels,
        "max_media_legs": tenant.max_media_legs,
        "fallback": {tenant.fallback.kind: tenant.fallback.value} if tenant.fallback else None,
        "nodes": tenant.nodes or tuple(fleet.nodes),
    }
    if trunk := tenant.trunk:
        for key in ("host", "port", "username", "codecs", "transport", "register", "allow_transfer"):
            facts[f"trunk.{key}"] = getattr(trunk, key)
        if ref := trunk.password:
            # Of a command only the program: its arguments may hold a token.
            value = ref.value[0] if ref.kind != "command" else f"{ref.value[0]} …"
            facts[f"trunk.password_{ref.kind}"] = value
    for queue in tenant.queues:
        for key in ("members", "strategy", "timeout", "max_callers", "music"):
            facts[f"queues.{queue.name}.{key}"] = getattr(queue, key)
    if outbound := tenant.outbound:
        for key in ("caller_ids", "allow", "deny", "calls_per_second"):
            facts[f"outbound.{key}"] = getattr(outbound, key)
    return facts | {f"templates.{kind}": path for kind, path in tenant.templates.items()}


def _origin(finder: document.Finder, fleet: Fleet, slug: str, dotted: str) -> str:
    """``file:line`` of the value, or "default"."""
    file = fleet.tenants[slug].file
    keys: list[tuple[str, Key]] = [(file, ("tenants", slug, *dotted.split(".")))]
    if dotted == "app":
        keys.append((finder.first, ("defaults", "app_name")))
    for place, key in keys:
        if found := finder.exact(place, key):
            return f"{place}:{found[0]}"
    return "default"


def _text(value: Any) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
