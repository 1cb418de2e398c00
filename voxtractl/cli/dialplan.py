"""``voxtractl dialplan``: render, lint, plan, push, reload, verify, status, rollback, history.

Each command is a table of contents: settings → TenantProvisioner → one call → show. What is decided here is
only what a person sees and is asked.
"""

import re
import signal
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from voxtractl.cli import complete, context, show
from voxtractl.cli.progress import reporter, wait
from voxtractl.errors import Interrupted, NodeError, UsageFault, VoxtractlError
from voxtractl.settings import Settings

if TYPE_CHECKING:
    from voxtractl.deploy.plan import Plan
    from voxtractl.deploy.revision import Record
    from voxtractl.deploy.steps import Result, Status
    from voxtractl.provision import Allowed, TenantProvisioner

__all__ = ["app", "push_after_edit"]

T = TypeVar("T")

DIFF_LINES: Final = 400  # shown without --full
PENDING: Final = 6  # exit code with --exit-code: changes, drift, or something not live

app = typer.Typer(
    help="Plan, push, reload, prove and roll back what Asterisk runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

_DELETES = typer.Option(0, "--allow-deletes", metavar="N", help="Up to N tenants may go, whatever the share.")
_MOVE = typer.Option(False, "--allow-move", help="A DID may change its owner.")
_DRIFT = typer.Option(False, "--overwrite-drift", help="Hand edits on the node go (they are kept aside).")
_EXIT_CODE = typer.Option(False, "--exit-code", help="Exit 6 when something is pending.")


@app.command()
def render(
    tenants: list[str] | None = typer.Argument(
        None, metavar="[TENANT]...", help="Only these tenants' files.", autocompletion=complete.tenants
    ),
    out: Path | None = typer.Option(None, "--out", help="Write the files below this folder, one per node."),
) -> None:
    """Render the files of each node; needs no Asterisk. Passwords show as stars, except in files."""
    from voxtractl.deploy.difference import masked

    provisioner = _provisioner()
    shown: dict[str, dict[str, str]] = {}
    for node in provisioner.nodes:
        bundle = provisioner.bundle(node)
        _known(tenants or (), bundle.tenants, node)
        wanted = {path for (slug, _), path in bundle.places.items() if not tenants or slug in tenants}
        chosen = {p: c for p, c in bundle.files.items() if not tenants or p in wanted}
        if out is not None:
            _write(out, node, chosen)
        shown[node] = {path: masked(content.decode()) for path, content in chosen.items()}
    if out is not None:
        count = sum(len(paths) for paths in shown.values())
        show.emit({"folder": str(out), "files": count}, f"{count} files written below {out}")
    else:
        show.emit({"nodes": shown}, lambda: "\n".join(_files_text(shown)))


@app.command()
def lint() -> None:
    """Prove what is rendered; needs no Asterisk.

    Own contexts only, every extension whole, nothing twice, a label on every number.
    """
    provisioner = _provisioner()
    counts: dict[str, int] = {}
    for node in provisioner.nodes:
        bundle = provisioner.bundle(node)
        provisioner.lint(bundle)
        counts[node] = len(bundle.files)
    show.emit(
        {"nodes": counts}, "\n".join(f"{node}: {count} files are sound" for node, count in counts.items())
    )


@app.command()
def plan(
    full: bool = typer.Option(
        False, "--full", help=f"Every line of the difference, not the first {DIFF_LINES}."
    ),
    exit_code: bool = _EXIT_CODE,
) -> None:
    """Show what a push would change on each node; changes nothing."""
    from voxtractl.deploy.plan import plans_digest

    provisioner = _provisioner()
    plans = wait(provisioner.plan())
    digest = plans_digest(plans)
    show.emit(
        {"plan": digest, "nodes": [_plan_document(plan) for plan in plans]},
        lambda: _plans_text(provisioner, plans, None if full else DIFF_LINES, digest),
    )
    if exit_code and not all(plan.empty for plan in plans):
        raise typer.Exit(PENDING)


@app.command()
def push(
    reviewed: str | None = typer.Option(
        None, "--plan", metavar="sha256:…", help="Push exactly the plan with this digest."
    ),
    allow_deletes: int = _DELETES,
    allow_move: bool = _MOVE,
    overwrite_drift: bool = _DRIFT,
    canaries: int = typer.Option(
        1, "--canaries", min=0, metavar="N", help="Nodes that go first, one by one."
    ),
    batch: int = typer.Option(16, "--batch", min=1, metavar="N", help="Nodes at once after the canaries."),
    failures: int = typer.Option(
        0, "--failures", min=0, metavar="N", help="Nodes that may fail before the rest is left alone."
    ),
) -> None:
    """Push to every node, reload, and prove it live.

    Shows the plan and asks first, unless --yes or --plan says that it was seen.
    """
    from voxtractl.deploy.rollout import Rollout
    from voxtractl.provision import Allowed

    if reviewed is not None and not re.fullmatch("sha256:[0-9a-f]{64}", reviewed):
        raise UsageFault("--plan: not a digest", hint="voxtractl dialplan plan ends with it: sha256:…, whole")
    allowed = Allowed(
        deletes=allow_deletes, move=allow_move, overwrite_drift=overwrite_drift, reviewed=reviewed
    )
    _push(_provisioner(), allowed, Rollout(canaries=canaries, batch=batch, failures=failures))


def push_after_edit(settings: Settings, *, removed: int = 0) -> None:
    """What ``tenant … --push`` does after the edit: the same push; an asked-for removal is allowed."""
    from voxtractl.provision import Allowed

    context.configure(settings)
    _push(_provisioner(), Allowed(deletes=removed), None)


def _push(provisioner: "TenantProvisioner", allowed: "Allowed", rollout: Any) -> None:
    """Show the plan and ask, unless a digest or --yes says that it was seen; then push and report."""
    from dataclasses import replace

    from voxtractl.deploy.plan import plans_digest
    from voxtractl.deploy.rollout import conclude

    if allowed.reviewed is None and not context.settings().yes:
        plans = wait(provisioner.plan())
        if not all(plan.empty for plan in plans):
            show.note(_plans_text(provisioner, plans, DIFF_LINES, stream=sys.stderr))
            _refuse(plans, allowed)
            if not show.confirm("Push this?"):
                show.emit({"pushed": False}, "nothing was pushed")
                return
            allowed = replace(allowed, reviewed=plans_digest(plans))
    results = _to_an_end(provisioner.push(allowed, rollout))
    _conclude(results, conclude)


def _refuse(plans: "Sequence[Plan]", allowed: "Allowed") -> None:
    """Raises what a push would raise, before anybody is asked; not while it would do one node."""
    from voxtractl.deploy.rollout import conclude_nodes
    from voxtractl.errors import PlanRefused

    refused: dict[str, PlanRefused] = {}
    for plan in plans:
        try:
            plan.raise_if_unsafe(
                allow_deletes=allowed.deletes,
                allow_move=allowed.move,
                overwrite_drift=allowed.overwrite_drift,
            )
        except PlanRefused as exc:
            refused[plan.node] = exc
    if len(refused) == len(plans):
        conclude_nodes(refused, list(refused))


@app.command()
def reload(
    everything: bool = typer.Option(False, "--all", help="pjsip and queues too, not only the dialplan."),
) -> None:
    """Reload each Asterisk over ARI, and prove it."""
    from voxtractl import naming
    from voxtractl.deploy.rollout import conclude

    kinds = naming.KINDS if everything else ("extensions",)
    _conclude(_to_an_end(_provisioner().reload(kinds)), conclude)


@app.command()
def verify(
    tenants: list[str] | None = typer.Argument(
        None, metavar="[TENANT]...", help="Only these tenants.", autocompletion=complete.tenants
    ),
) -> None:
    """Prove that Asterisk runs the current revision.

    Every file, every DID, every endpoint is asked for; changes nothing.
    """
    from voxtractl.deploy.rollout import conclude

    provisioner = _provisioner()
    _known(tenants or (), provisioner.fleet.tenants, str(provisioner.config))
    _conclude(wait(provisioner.verify(tenants or None)), conclude)


@app.command()
def status(exit_code: bool = _EXIT_CODE) -> None:
    """Compare document, files and Asterisk.

    Is every node what it should be? Changes nothing.
    """
    found = wait(_provisioner().status())
    errors = {s.node: s.error for s in found if s.error is not None}
    _conclude_look(errors, [_status_document(s) for s in found], lambda: _status_text(found))
    if exit_code and not all(s.settled for s in found):
        raise typer.Exit(PENDING)


@app.command()
def rollback(
    revision: str | None = typer.Argument(
        None, metavar="[REVISION]", help="One that the node still keeps. [the last proven one]"
    ),
) -> None:
    """Make an earlier revision current again, reload, and prove it."""
    from voxtractl.deploy.rollout import conclude

    provisioner = _provisioner()
    target = revision or "the last proven revision"
    if not show.confirm(f"Roll {', '.join(provisioner.nodes)} back to {target}?"):
        show.emit({"rolled_back": False}, "nothing was changed")
        return
    _conclude(_to_an_end(provisioner.rollback(revision)), conclude)


@app.command()
def history(limit: int = typer.Option(20, "--limit", min=1, metavar="N", help="Lines of each node.")) -> None:
    """Who pushed what to each node, newest first."""
    provisioner = _provisioner()
    records: dict[str, Sequence[Record]] = {}
    errors: dict[str, NodeError] = {}
    for node in provisioner.nodes:
        try:
            records[node] = wait(provisioner.history(node))[::-1][:limit]
        except NodeError as exc:
            records[node], errors[node] = (), exc
    nodes = {node: [record._asdict() for record in lines] for node, lines in records.items()}
    _conclude_look(errors, nodes, lambda: _history_text(chain.from_iterable(records.values())))


# --- what the commands share ------------------------------------------------------------------------------


def _provisioner() -> "TenantProvisioner":
    from voxtractl.provision import TenantProvisioner

    settings = context.settings()
    return TenantProvisioner(
        settings.config,
        nodes=settings.node,
        templates=settings.templates,
        timeout=settings.timeout,
        report=reporter(),
    )


def _to_an_end(work: Coroutine[Any, Any, T]) -> T:
    """``wait`` for what changes nodes: whoever interrupts it is told where to look afterwards."""
    from voxtractl.cli.entry import SIGNALS

    try:
        return wait(work)
    except KeyboardInterrupt as exc:
        for number in SIGNALS:  # the next one would be told in the place of this, without the hint
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted(
            "interrupted", hint="voxtractl dialplan status shows what each node runs now"
        ) from exc


def _conclude(results: "Sequence[Result]", conclude: "Callable[[Sequence[Result]], None]") -> None:
    """Print what was done, then end as the nodes ended. A failure is the one document of -o json."""
    for result in results:
        for warning in result.warnings:
            show.warn(warning)
    bad = any(result.error is not None for result in results)
    if not bad or (len(results) > 1 and context.settings().output == "text"):
        show.emit({"nodes": [result.document() for result in results]}, lambda: _results_text(results))
    conclude(results)


def _conclude_look(
    errors: Mapping[str, VoxtractlError], nodes: Collection[Any], text: Callable[[], str]
) -> None:
    """Print what was seen, then end as the nodes ended. A failure is the one document of -o json."""
    from voxtractl.deploy.rollout import conclude_nodes

    if not errors or context.settings().output == "text":
        show.emit({"nodes": nodes}, text)
    conclude_nodes(errors, nodes)


def _known(tenants: Iterable[str], there: Iterable[str], where: str) -> None:
    from voxtractl.model.fleet import must_know

    for slug in tenants:
        must_know("tenant", slug, there, where)


def _write(out: Path, node: str, files: dict[str, bytes]) -> None:
    import os

    for path, content in files.items():
        target = out / node / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
        except OSError as exc:
            why = (exc.strerror or str(exc)).lower()
            raise UsageFault(
                f"--out {out}: {exc.filename or target} cannot be written: {why}",
                hint="name a folder that you may write to, on a disk with room; it is made when it is absent",
            ) from exc


def _files_text(nodes: dict[str, dict[str, str]]) -> Iterable[str]:
    for node, files in nodes.items():
        for path, text in files.items():
            yield show.paint(f"; === {node}: {path}", "bold")
            yield text


def _plan_document(plan: "Plan") -> dict[str, Any]:
    return {
        "node": plan.node,
        "plan": plan.digest,
        "base": plan.base,
        "summary": plan.blast_radius(),
        "empty": plan.empty,
        "tenants": [
            {
                "slug": c.slug,
                "action": c.action,
                "kinds": list(c.kinds),
                "dids_added": list(c.dids_added),
                "dids_removed": list(c.dids_removed),
            }
            for c in plan.changes
        ],
        "files": [{"path": c.path, "action": c.action} for c in plan.files],
        "moves": [{"did": m.did, "from": m.old, "to": m.new} for m in plan.moves],
        "drift": [{"path": d.path, "what": d.what} for d in plan.drift],
    }


def _plans_text(
    provisioner: "TenantProvisioner",
    plans: "Sequence[Plan]",
    most: int | None,
    digest: str | None = None,
    stream: Any = None,
) -> str:
    """The difference of every node, then one line of blast radius each, then the digest, if it is wanted."""
    lines: list[str] = []
    shown: dict[tuple[str, str | None], str] = {}  # (after, before) → the node whose difference was shown
    for plan in plans:
        like = shown.setdefault((plan.tree, plan.base_tree), plan.node)
        if plan.files and like != plan.node:
            lines.append(f"{show.paint(plan.node, 'bold', stream=stream)}: the same difference as {like}")
        elif plan.files:
            lines += _difference(provisioner, plan, most, stream)
        for drift in plan.drift:
            lines.append(
                show.paint(f"drift: {drift.path} is {drift.what} on {plan.node}", "yellow", stream=stream)
            )
    for plan in plans:
        text = "nothing to change" if plan.empty else plan.blast_radius()
        lines.append(show.paint(plan.node, "bold", stream=stream) + f": {text}")
    if digest is not None and not all(plan.empty for plan in plans):
        lines.append(f"push exactly this: voxtractl dialplan push --plan {digest}")
    return "\n".join(lines)


def _difference(provisioner: "TenantProvisioner", plan: "Plan", most: int | None, stream: Any) -> list[str]:
    from voxtractl.deploy.difference import unified

    texts = wait(provisioner.texts(plan))
    every = chain.from_iterable(unified(path, old, new) for path, (old, new) in texts.items())
    shown = list(islice(every, most))
    if most is not None and next(every, None) is not None:
        shown.append(f"… more lines in {len(texts)} files; --full shows all of them")
    return [show.paint(line, *_colour(line), stream=stream) for line in shown]


def _colour(line: str) -> tuple[str, ...]:
    if line.startswith(("--- ", "+++ ")):
        return ("bold",)
    return {"+": ("green",), "-": ("red",), "@": ("cyan",)}.get(line[:1], ())


def _results_text(results: "Sequence[Result]") -> str:
    return "\n".join(_result_line(result) for result in results)


def _result_line(result: "Result") -> str:
    colour = {"failed": "red", "skipped": "yellow"}.get(result.status, "green")
    line = f"{show.paint(result.node, 'bold')}: {show.paint(result.status, colour)}"
    if result.revision:
        line += f" {result.revision}"
    if result.plan is not None and not result.plan.empty:
        line += f": {result.plan.blast_radius()}"
    if result.proof is not None and result.proof.complete:
        dids = f"{result.proof.dids} DID{'' if result.proof.dids == 1 else 's'}"
        line += f"; proven: {dids} live, {result.proof.asked} answers, {result.ms} ms"
    return line


def _status_document(status: "Status") -> dict[str, Any]:
    return {
        "node": status.node,
        "settled": status.settled,
        "revision": status.snapshot.revision if status.snapshot else None,
        "pending": status.plan.blast_radius() if status.plan and not status.plan.empty else None,
        "drift": [{"path": d.path, "what": d.what} for d in status.snapshot.drift] if status.snapshot else [],
        "proof": status.proof.document() if status.proof else None,
        "error": show.error_document(status.error)["error"] if status.error else None,
    }


def _status_text(found: "Sequence[Status]") -> str:
    rows: list[tuple[str, ...]] = []
    more: list[str] = []
    for s in found:
        if s.snapshot is None:
            why = s.error.message if s.error else "it could not be read"
            rows.append((s.node, "unknown", "unknown", "-", "unknown", why))
            continue
        live = "unknown" if s.proof is None else "yes" if s.proof.complete else "NO"
        pending = "none" if s.plan is None or s.plan.empty else s.plan.blast_radius()
        dids = str(s.proof.dids) if s.proof else "-"
        drift = str(len(s.snapshot.drift)) if s.snapshot.drift else "none"
        rows.append((s.node, s.snapshot.revision or "none", live, dids, drift, pending))
        if s.proof is not None and not s.proof.complete:
            more.append(show.paint(f"{s.node}: {s.proof.sentence()}", "red"))
        more += [show.paint(f"{s.node}: {d.path} is {d.what}", "yellow") for d in s.snapshot.drift]
    return "\n".join([show.table(("NODE", "REVISION", "LIVE", "DIDS", "DRIFT", "PENDING"), rows), *more])


def _history_text(records: "Iterable[Record]") -> str:
    return show.table(
        ("WHEN", "NODE", "OUTCOME", "REVISION", "WHO", "REASON"),
        [(f"{r.when[:19]}Z", r.node, r.outcome, r.revision, r.who, r.reason) for r in records],
    )
