"""``voxtractl node``: list, init, check, trust. What is decided here is only what a person sees and is asked.

Each command is a table of contents: settings → TenantProvisioner → one call → show.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from voxtractl.cli import complete, context, show
from voxtractl.cli.progress import reporter, wait
from voxtractl.errors import HostKeyUnknown, PlanRefused, UsageFault

if TYPE_CHECKING:
    from voxtractl.deploy.check import Finding
    from voxtractl.deploy.prepare import Edit
    from voxtractl.deploy.steps import Result
    from voxtractl.provision import TenantProvisioner

__all__ = ["app"]

T = TypeVar("T")

Shown = Mapping[str, "tuple[Edit, ...]"]  # node → what happens to Asterisk's own files

app = typer.Typer(
    help="The Asterisk nodes of the document: list, prepare, check, trust.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

NAMES: Final = typer.Argument(
    None, metavar="[NAME]...", help="All nodes when none is named.", autocompletion=complete.nodes
)


@app.command("list")
def list_() -> None:
    """The nodes of the document; asks none of them."""
    fleet = _provisioner(()).fleet
    rows = [
        {"name": n.name, "ari": n.ari, "store": n.store, "tenants": len(fleet.on(n.name))}
        for n in fleet.nodes.values()
    ]
    show.emit(
        {"nodes": rows},
        lambda: show.table(
            ("NAME", "TENANTS", "ARI", "STORE"),
            [(str(r["name"]), str(r["tenants"]), str(r["ari"]), str(r["store"])) for r in rows],
        ),
    )


@app.command()
def init(
    names: list[str] | None = NAMES,
    out: bool = typer.Option(False, "--remove", help="Take the lines out again; the store stays."),
    dry: bool = typer.Option(False, "--dry-run", help="Show the difference and change nothing."),
) -> None:
    """Let Asterisk read the store: two lines in its files.

    Shows the edits and asks first; proves that Asterisk reads through them, or takes them back.
    """
    from voxtractl.deploy.rollout import Rollout, conclude, roll_out

    provisioner = _provisioner(names or ())
    shown, tenants = wait(_look(provisioner, out))
    if context.settings().output == "text":
        show.note(_difference(shown))
    if dry:
        show.emit({"nodes": _files_document(shown)}, "nothing was changed")
        return
    if any(_changes(edits) for edits in shown.values()) and not show.confirm(_question(shown, tenants, out)):
        show.emit({"changed": False}, "nothing was changed")
        return
    work = roll_out(tuple(shown), lambda node: _change(provisioner, node, shown, tenants, out), Rollout())
    results = provisioner.audit(wait(work))
    files = _files_document(shown)
    if not any(result.error for result in results) or context.settings().output == "text":
        show.emit(
            {"nodes": [{**result.document(), **files[result.node]} for result in results]},
            lambda: "\n".join(_result_line(result) for result in results),
        )
    conclude(results)


async def _look(provisioner: "TenantProvisioner", out: bool) -> "tuple[Shown, dict[str, int]]":
    """What would happen to the files of every node, and how many tenants each serves now."""
    from voxtractl.deploy import prepare

    shown: dict[str, tuple[Edit, ...]] = {}
    tenants: dict[str, int] = {}
    for name in provisioner.nodes:
        prefix = prepare.prefix_of(provisioner.fleet.nodes[name])
        async with provisioner.store(name) as store:
            shown[name] = await prepare.look(store, name, prefix, "out" if out else "in")
            manifest = (await store.observe()).manifest if out else None
            tenants[name] = len(manifest.tenants) if manifest else 0
    return shown, tenants


async def _change(
    provisioner: "TenantProvisioner", name: str, shown: Shown, tenants: Mapping[str, int], out: bool
) -> "Result":
    from voxtractl import __version__
    from voxtractl.deploy import prepare
    from voxtractl.deploy.steps import Options

    options = Options(who=provisioner.who, tool=f"voxtractl {__version__}")
    prefix = prepare.prefix_of(provisioner.fleet.nodes[name])
    report = reporter()
    async with provisioner.at_work(name) as (store, ari):
        if out:
            return await prepare.remove(
                store, ari, name, prefix, options, report, reviewed=shown[name], tenants=tenants[name]
            )
        bundle = provisioner.empty_bundle(name)
        return await prepare.init(store, ari, bundle, prefix, options, report, reviewed=shown[name])


@app.command()
def check(names: list[str] | None = NAMES) -> None:
    """Say what is wrong with each node, and the way on.

    Changes nothing.
    """
    import asyncio
    from functools import partial

    from voxtractl.deploy.check import check, exit_code

    provisioner = _provisioner(names or ())

    async def one(name: str) -> "tuple[Finding, ...]":
        node = provisioner.fleet.nodes[name]
        return await check(node, partial(provisioner.store, name), partial(provisioner.ari, name))

    async def every() -> "list[tuple[Finding, ...]]":
        return await asyncio.gather(*(one(name) for name in provisioner.nodes))

    found = dict(zip(provisioner.nodes, wait(every()), strict=True))
    code = max(exit_code(findings) for findings in found.values())
    show.emit(
        {
            "ok": code == 0,
            "nodes": [
                {"node": name, "findings": [finding.document() for finding in findings]}
                for name, findings in found.items()
            ],
        },
        lambda: "\n".join(_findings_text(name, findings) for name, findings in found.items()),
    )
    if code:
        raise typer.Exit(code)


@app.command()
def trust(
    name: str = typer.Argument(
        metavar="NAME", help="A node whose store is sftp://…", autocompletion=complete.nodes
    ),
    fingerprint: str = typer.Option(
        None, "--fingerprint", metavar="SHA256:…", help="What the node itself shows.", show_default=False
    ),
) -> None:
    """Trust the SSH key of a node.

    Without --fingerprint it shows the key's fingerprint, to compare with what the node itself shows.
    """
    from voxtractl.deploy.store.base import parse_url
    from voxtractl.deploy.store.hostkeys import fetch_host_key, known_hosts_file, trusted
    from voxtractl.deploy.store.hostkeys import trust as write

    provisioner = _provisioner((name,))
    node = provisioner.fleet.nodes[provisioner.nodes[0]]
    place = parse_url(node.store)
    if place.scheme != "sftp":
        raise UsageFault(
            f"{name} is not reached over SSH: its store is {node.store}",
            hint="only nodes whose store is sftp://… have a key to trust",
        )
    line, shown = wait(fetch_host_key(node, timeout=context.settings().timeout))
    known = {key.get_fingerprint() for key in trusted().match(place.host, "", place.port)[0]}
    if not known and fingerprint is None:
        raise PlanRefused(
            f"{name} ({place.host}:{place.port}) shows the key {shown}; nothing is trusted yet",
            where=f"node {name}",
            hint=f"on {name} itself run: ssh-keygen -lf /etc/ssh/ssh_host_{_file(line)}_key.pub; when it says"
            f" the same, run: voxtractl node trust {name} --fingerprint {shown}",
            details={"node": name, "host": place.host, "port": place.port, "fingerprint": shown},
        )
    if fingerprint not in {None, shown} and known <= {shown}:
        raise HostKeyUnknown(
            f"{name} ({place.host}:{place.port}) shows {shown}, not {fingerprint}; nothing was written",
            node=name,
            hint="compare again on the node itself; if they really differ, somebody stands in between",
            details={"host": place.host, "port": place.port, "fingerprint": shown, "given": fingerprint},
        )
    path = known_hosts_file()
    added = write(path, place.host, place.port, line, node=name)  # refuses a changed key
    show.emit(
        {"node": name, "fingerprint": shown, "file": str(path), "added": added},
        f"{name} is trusted by {shown}" + (f", written to {path}" if added else " already"),
    )


# --- what the commands share ------------------------------------------------------------------------------


def _provisioner(names: Sequence[str]) -> "TenantProvisioner":
    from voxtractl.provision import TenantProvisioner

    settings = context.settings()
    nodes = (*settings.node, *names)
    return TenantProvisioner(settings.config, nodes=nodes, timeout=settings.timeout)


def _changes(edits: "Sequence[Edit]") -> bool:
    return any(edit.changes for edit in edits)


def _question(shown: Shown, tenants: Mapping[str, int], out: bool) -> str:
    nodes = ", ".join(name for name, edits in shown.items() if _changes(edits))
    served = sum(tenants.values())
    if out and served:
        word = "tenant" if served == 1 else "tenants"
        return f"Take the lines out of {nodes}? {served} {word} will not be reached any more."
    return f"Take the lines out of {nodes}?" if out else f"Change these files of {nodes}?"


def _difference(shown: Shown) -> str:
    """The unified difference of every file, for stderr."""
    lines: list[str] = []
    for name, edits in shown.items():
        if not _changes(edits):
            lines.append(show.paint(name, "bold", stream=sys.stderr) + ": Asterisk's own files are right")
            continue
        lines.append(show.paint(name, "bold", stream=sys.stderr))
        for line in _unified(edits):
            lines.append(show.paint(line, *_colour(line), stream=sys.stderr))
    return "\n".join(lines)


def _unified(edits: "Sequence[Edit]") -> list[str]:
    from voxtractl.deploy.difference import unified

    return [line for edit in edits if edit.changes for line in unified(edit.name, edit.old or b"", edit.new)]


def _files_document(shown: Shown) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "files": [{"name": e.name, "lines": e.state, "changes": e.changes} for e in edits],
            "difference": _unified(edits),
        }
        for name, edits in shown.items()
    }


def _colour(line: str) -> tuple[str, ...]:
    if line.startswith(("--- ", "+++ ")):
        return ("bold",)
    return {"+": ("green",), "-": ("red",), "@": ("cyan",)}.get(line[:1], ())


def _result_line(result: "Result") -> str:
    name = show.paint(result.node, "bold")
    match result.status:
        case "prepared":
            return f"{name}: {show.paint('prepared', 'green')}; proven: Asterisk reads {result.revision}"
        case "unchanged":
            return f"{name}: {show.paint('nothing to do', 'green')}"
        case "removed":
            return f"{name}: {show.paint('removed', 'green')}; Asterisk reads nothing of the store any more"
        case "skipped":
            return f"{name}: {show.paint('skipped', 'yellow')}"
        case _:
            return f"{name}: {show.paint(result.status, 'red')}"


def _findings_text(name: str, findings: "Sequence[Finding]") -> str:
    """One line a finding, its hint below; what is well in one colour, what is not in another."""
    marks = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
    lines = [show.paint(name, "bold")]
    for finding in findings:
        word, colour = marks[finding.level]
        lines.append(f"  {show.paint(word, colour)}  {finding.text}")
        if finding.hint:
            lines.append(f"        {show.paint(finding.hint, 'dim')}")
    return "\n".join(lines)


def _file(line: str) -> str:
    """``ssh-ed25519 AAAA…`` → ``ed25519``, as sshd names the file."""
    kind = line.split()[0]
    return next((word for word in ("ed25519", "ecdsa", "rsa") if word in kind), "ed25519")
