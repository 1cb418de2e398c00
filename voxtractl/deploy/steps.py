"""The steps of one node, in order; the only place where a node is restored.

    lock·observe → plan → guard → push (stage·check·flip) → reload → verify → record
                                          └ on failure:  flip back → reload → verify the old one → record

Whatever ends a push after the flip (a refused reload, a proof that fails, Asterisk gone, Ctrl-C) passes
through ``_restore``. The old state is what was live *before* the push, measured, not assumed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final, Literal, NamedTuple

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.deploy.plan import Plan, Snapshot, diff
from voxtractl.deploy.proof import Proof, prove, questions
from voxtractl.deploy.revision import Manifest, Outcome, Record, manifest_of, prune, revision_id
from voxtractl.deploy.store.base import Store
from voxtractl.errors import (
    AriAuthFailed,
    AriError,
    NodeAuthFailed,
    NodeError,
    NodeUnreachable,
    PlanRefused,
    ReloadFailed,
    RollbackFailed,
    StalePlan,
    StoreError,
    UsageFault,
    VerifyFailed,
    VoxtractlError,
)
from voxtractl.render.bundle import Bundle

__all__ = [
    "Options",
    "Report",
    "Result",
    "Status",
    "failed",
    "look",
    "of_node",
    "push",
    "reload",
    "reload_kinds",
    "rollback",
    "to_its_end",
    "verify",
]

Report = Callable[[str, str], None]  # (node, what is being done now)

# The dialplan comes last, so that it never names an endpoint or a queue that is not there yet.
RELOAD_ORDER: Final = ("queues", "pjsip", "extensions")


class Options(NamedTuple):
    """What the operator allowed for this push. ``reviewed`` is the digest of the plan that was shown."""

    who: str
    tool: str
    allow_deletes: int = 0
    allow_move: bool = False
    overwrite_drift: bool = False
    reviewed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a node ended. ``error`` is set exactly when ``status`` is failed."""

    node: str
    status: Literal[
        "pushed",
        "unchanged",
        "reloaded",
        "rolled back",
        "verified",
        "prepared",
        "removed",
        "failed",
        "skipped",
    ]
    revision: str | None = None
    base: str | None = None
    plan: Plan | None = None
    proof: Proof | None = None
    ms: int = 0
    error: VoxtractlError | None = None
    warnings: tuple[str, ...] = ()
    record: Record | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form, the same for every command."""
        document: dict[str, Any] = {
            "node": self.node,
            "status": self.status,
            "revision": self.revision,
            "base": self.base,
            "ms": self.ms,
        }
        if self.plan is not None:
            document["plan"] = self.plan.digest
            document["summary"] = self.plan.blast_radius()
        if self.proof is not None:
            document["proof"] = self.proof.document()
        if self.error is not None:
            document["error"] = {"id": self.error.id, "message": self.error.message, "hint": self.error.hint}
        if self.warnings:
            document["warnings"] = list(self.warnings)
        return document


class Status(NamedTuple):
    """What a node is: its files, what Asterisk runs of them, and what the document would change."""

    node: str
    snapshot: Snapshot | None = None  # None, and no plan, when the node's files could not be read
    plan: Plan | None = None
    proof: Proof | None = None  # None when nothing was pushed or Asterisk did not answer
    error: VoxtractlError | None = None

    @property
    def settled(self) -> bool:
        """True when files, Asterisk and document agree."""
        live = self.proof is not None and self.proof.complete
        return live and self.plan is not None and self.plan.empty and self.error is None


@dataclass(frozen=True)
class _Work:
    """What the steps of one push share."""

    store: Store
    ari: ARIClient
    node: str
    options: Options
    report: Report
    started: float = field(default_factory=monotonic)

    def ms(self) -> int:
        return round((monotonic() - self.started) * 1000)


async def push(
    store: Store,
    ari: ARIClient,
    bundle: Bundle,
    options: Options,
    inspect: Callable[[Plan], None],
    report: Report,
) -> Result:
    """Bring one node to ``bundle`` and prove it. ``inspect`` may refuse the plan by raising (lint).

    Raises PlanRefused before anything is touched; NodeError (ReloadFailed, VerifyFailed) with the old
    revision back in place and proven; RollbackFailed when that could not be proven either.
    """
    work = _Work(store, ari, bundle.node, options, report)
    report(bundle.node, "observe")
    async with store.lock(options.who) as snapshot:
        plan = diff(snapshot, bundle)
        _guard_plan(plan, options)
        inspect(plan)
        before = await _guard_ari(work, snapshot)
        if plan.empty:
            return await _settle(work, bundle, plan, snapshot)
        when = _not_before(datetime.now(UTC), bundle.tree, snapshot.revision)
        manifest = manifest_of(
            bundle,
            revision=revision_id(bundle.tree, when),
            who=options.who,
            when=when,
            base=snapshot.revision,
            tool=options.tool,
        )
        # After a hand edit nobody knows which tenants it meant: all are proven.
        touched = None if plan.drift else {change.slug for change in plan.changes}

        async def change() -> None:
            report(bundle.node, "push")
            await store.push(manifest, bundle.files)

        proof = await _activate(work, manifest, snapshot, before, plan.kinds, touched, change, plan)
        record = _record(work, "pushed", manifest.revision, snapshot.revision, plan)
        warnings = await _keep_books(work, record, snapshot, plan)
        return Result(
            node=bundle.node,
            status="pushed",
            revision=manifest.revision,
            base=snapshot.revision,
            plan=plan,
            proof=proof,
            ms=work.ms(),
            warnings=warnings,
            record=record,
        )


async def rollback(
    store: Store, ari: ARIClient, node: str, revision: str | None, options: Options, report: Report
) -> Result:
    """Make an earlier revision current again and prove it; when none is named, the last proven one.

    Raises UsageFault for a revision that the node does not keep, and what ``push`` raises.
    """
    work = _Work(store, ari, node, options, report)
    async with store.lock(options.who) as snapshot:
        target = revision or await _last_good(store, node, snapshot.revision)
        _guard_target(node, target, snapshot)
        manifest = await store.manifest(target)
        before = await _guard_ari(work, snapshot)
        kinds = _differing_kinds(snapshot.manifest, manifest)

        async def change() -> None:
            report(node, "flip")
            await store.flip(target)
            drift = (await store.observe()).drift
            if drift:
                await store.flip(snapshot.revision or target)
                raise StoreError(
                    f"{target} is damaged on {node}: {drift[0].path} is {drift[0].what}",
                    node=node,
                    hint="choose another revision from `voxtractl dialplan history`, or push the document",
                )

        proof = await _activate(work, manifest, snapshot, before, kinds, None, change, None)
        record = _record(work, "rollback", target, snapshot.revision, None)
        warnings = await _keep_books(work, record, snapshot, None)
        return Result(
            node=node,
            status="rolled back",
            revision=target,
            base=snapshot.revision,
            proof=proof,
            ms=work.ms(),
            warnings=warnings,
            record=record,
        )


async def reload(store: Store, ari: ARIClient, node: str, kinds: Collection[str], report: Report) -> Result:
    """Let Asterisk read the current revision again, and prove it."""
    started = monotonic()
    snapshot = await store.observe()
    manifest = _pushed(node, snapshot)
    await reload_kinds(ari, node, kinds, report)
    proof = await _prove(ari, node, manifest, None, report)
    return Result(
        node=node,
        status="reloaded",
        revision=snapshot.revision,
        proof=proof,
        ms=round((monotonic() - started) * 1000),
    )


async def verify(
    store: Store, ari: ARIClient, node: str, only: Collection[str] | None, report: Report
) -> Result:
    """Prove the current revision, or these tenants of it; changes nothing. Raises VerifyFailed."""
    started = monotonic()
    snapshot = await store.observe()
    manifest = _pushed(node, snapshot)
    proof = await _prove(ari, node, manifest, only, report)
    return Result(
        node=node,
        status="verified",
        revision=snapshot.revision,
        proof=proof,
        ms=round((monotonic() - started) * 1000),
    )


async def look(store: Store, ari: ARIClient, bundle: Bundle) -> Status:
    """What a node is now, without touching it; Asterisk not answering is part of the answer."""
    snapshot = await store.observe()
    plan = diff(snapshot, bundle)
    if snapshot.manifest is None:
        return Status(node=bundle.node, snapshot=snapshot, plan=plan)
    manifest = snapshot.manifest
    try:
        proof = await prove(ari, questions(manifest.marks, manifest.tenants, manifest.trunk_context))
    except AriError as exc:
        return Status(node=bundle.node, snapshot=snapshot, plan=plan, error=of_node(bundle.node, exc))
    return Status(node=bundle.node, snapshot=snapshot, plan=plan, proof=proof)


# --- the steps --------------------------------------------------------------------------------------------


def _guard_plan(plan: Plan, options: Options) -> None:
    if options.reviewed is not None and plan.digest != options.reviewed:
        raise StalePlan(
            f"node {plan.node} or the document changed since the plan was reviewed",
            where=f"node {plan.node}",
            hint="look at `voxtractl dialplan plan` again and push its digest",
            details={"node": plan.node, "reviewed": options.reviewed, "now": plan.digest},
        )
    plan.raise_if_unsafe(
        allow_deletes=options.allow_deletes,
        allow_move=options.allow_move,
        overwrite_drift=options.overwrite_drift,
    )


def _guard_target(node: str, target: str, snapshot: Snapshot) -> None:
    """Before anything is touched: there is such a revision, and it is another one."""
    others = [name for name in snapshot.revisions if name != snapshot.revision]
    kept = f"the other revisions that {node} keeps: {', '.join(others) or 'none'}"
    details = {"node": node, "current": snapshot.revision, "kept": list(snapshot.revisions)}
    if target == snapshot.revision:
        raise PlanRefused(
            f"{target} is the current revision of {node} already",
            where=f"node {node}",
            hint=kept,
            details=details,
        )
    if target not in others:
        raise UsageFault(f"{node} keeps no revision {target!r}", hint=kept, details=details)


async def _guard_ari(work: _Work, snapshot: Snapshot) -> Mapping[str, bool]:
    """Before anything is touched: ARI answers, its user may write; which of the old marks are live."""
    work.report(work.node, "guard")
    marks = snapshot.manifest.marks if snapshot.manifest else {}
    try:
        # The label oracle is a POST: a read-only user is refused here, not after the flip.
        if "extensions" not in marks:
            await work.ari.ask(requests.probe_label(naming.LOADED_CONTEXT, "rev", "voxtractl"))
        proof = await prove(work.ari, questions(marks, {}, ""))
    except AriError as exc:
        raise of_node(work.node, exc) from exc
    return {kind: kind not in proof.missing_kinds for kind in marks}


async def _settle(work: _Work, bundle: Bundle, plan: Plan, snapshot: Snapshot) -> Result:
    """The files are right already; see that Asterisk runs them, and let it read them again if it does not."""
    manifest = _pushed(bundle.node, snapshot)
    status: Literal["unchanged", "reloaded"] = "unchanged"
    asked = questions(manifest.marks, manifest.tenants, manifest.trunk_context)
    try:
        proof = await prove(work.ari, asked)
        if not proof.complete:
            status = "reloaded"
            await reload_kinds(work.ari, bundle.node, naming.KINDS, work.report)
            proof = await prove(work.ari, asked)
    except AriError as exc:
        raise of_node(work.node, exc) from exc
    if not proof.complete:
        raise _not_proven(
            bundle.node, manifest.revision, proof, "the files are right, Asterisk does not read them"
        )
    return Result(
        node=bundle.node,
        status=status,
        revision=manifest.revision,
        base=snapshot.revision,
        plan=plan,
        proof=proof,
        ms=work.ms(),
    )


async def _activate(
    work: _Work,
    manifest: Manifest,
    snapshot: Snapshot,
    before: Mapping[str, bool],
    kinds: Collection[str],
    only: Collection[str] | None,
    change: Callable[[], Awaitable[None]],
    plan: Plan | None,
) -> Proof:
    """Make ``manifest`` current through ``change``, load it, prove it; else restore what was live before."""
    changed = False
    try:
        await change()
        changed = True
        await reload_kinds(work.ari, work.node, kinds, work.report)
        return await _prove(work.ari, work.node, manifest, only, work.report)
    except NodeError as failure:
        if changed:
            await to_its_end(
                _restore(work, snapshot, before, kinds, manifest.revision, failure.message, plan)
            )
            failure.details["restored"] = snapshot.revision
            proven = "back and proven" if all(before.values()) else "back; it was not live before either"
            failure.message += f"; {snapshot.revision} is {proven}"
            failure.args = (failure.message,)
        raise
    except asyncio.CancelledError:
        # Whether the flip had happened is not known; flipping back to what is current changes nothing.
        await to_its_end(_restore(work, snapshot, before, kinds, manifest.revision, "interrupted", plan))
        raise


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work`` although this task is cancelled meanwhile, however often; its steps are bounded."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    task.result()


async def _restore(
    work: _Work,
    snapshot: Snapshot,
    before: Mapping[str, bool],
    kinds: Collection[str],
    failed: str,
    reason: str,
    plan: Plan | None,
) -> None:
    """Flip back, reload, and prove that what was live before is live again. Raises RollbackFailed."""
    work.report(work.node, "roll back")
    old = snapshot.revision
    if old is None:
        raise RollbackFailed(
            f"{reason}; and there is no earlier revision on {work.node} to go back to",
            node=work.node,
            hint=f"voxtractl node check {work.node}",
        )
    try:
        await work.store.flip(old)
        await reload_kinds(work.ari, work.node, kinds, work.report)
        # Only what was live before can be demanded: a node whose include line was missing had nothing live.
        marks = {
            k: m for k, m in (snapshot.manifest.marks if snapshot.manifest else {}).items() if before.get(k)
        }
        proof = await prove(work.ari, questions(marks, {}, ""))
    except (NodeError, AriError) as exc:
        await _try_record(work, _record(work, "rollback-failed", failed, old, plan, reason))
        raise RollbackFailed(
            f"{reason}; the files were to go back to {old}, but: {exc.message}",
            node=work.node,
            hint=f"voxtractl dialplan verify --node {work.node}; a push heals it once Asterisk answers",
            details={"failed": failed, "old": old},
        ) from exc
    if not proof.complete:
        await _try_record(work, _record(work, "rollback-failed", failed, old, plan, reason))
        raise RollbackFailed(
            f"{reason}; the files are back at {old}, but {proof.sentence()}",
            node=work.node,
            hint=f"look at Asterisk's log on {work.node}, then voxtractl dialplan reload",
            details={"failed": failed, "old": old, "missing": proof.missing()},
        )
    await _try_record(work, _record(work, "rolled-back", failed, old, plan, reason))


async def reload_kinds(ari: ARIClient, node: str, kinds: Collection[str], report: Report) -> None:
    for kind in RELOAD_ORDER:
        if kind not in kinds:
            continue
        report(node, f"reload {kind}")
        try:
            await ari.reload(requests.MODULES[kind])
        except AriError as exc:
            if exc.status != 409:
                raise of_node(node, exc) from exc
            raise ReloadFailed(
                f"Asterisk refused to load {kind} and kept what it had",
                node=node,
                hint="its log names the file and the line",
                details={"kind": kind, "answer": exc.message},
            ) from exc


async def _prove(
    ari: ARIClient, node: str, manifest: Manifest, only: Collection[str] | None, report: Report
) -> Proof:
    report(node, "verify")
    try:
        proof = await prove(
            ari, questions(manifest.marks, manifest.tenants, manifest.trunk_context, only=only)
        )
    except AriError as exc:
        raise of_node(node, exc) from exc
    if not proof.complete:
        raise _not_proven(node, manifest.revision, proof, "Asterisk does not run it")
    return proof


def _not_proven(node: str, revision: str, proof: Proof, why: str) -> VerifyFailed:
    return VerifyFailed(
        f"{revision} is not proven on {node}, {why}: {proof.sentence()}",
        node=node,
        hint=f"voxtractl node check {node}",
        details={"revision": revision, "missing": proof.missing()},
    )


def of_node(node: str, exc: AriError) -> NodeError:
    """An ARI error as the node's own."""
    kind: type[NodeError] = (
        NodeAuthFailed if isinstance(exc, AriAuthFailed) or exc.status == 403 else NodeUnreachable
    )
    return kind(
        exc.message, node=node, where=f"node {node} ({exc.where})", hint=exc.hint, details=exc.details
    )


def _pushed(node: str, snapshot: Snapshot) -> Manifest:
    if snapshot.manifest is not None:
        return snapshot.manifest
    if snapshot.revision is None and not snapshot.drift:
        raise PlanRefused(
            f"nothing was ever pushed to {node}", where=f"node {node}", hint=f"voxtractl node init {node}"
        )
    raise StoreError(
        f"the manifest of the current revision on {node} cannot be read",
        node=node,
        hint="voxtractl dialplan push --overwrite-drift writes it anew",
    )


async def _last_good(store: Store, node: str, current: str | None) -> str:
    """The newest other revision that is still there and was proven."""
    there = set(await store.revisions())
    for record in reversed(await store.history()):
        proven = record.outcome in {"pushed", "rollback"}
        if proven and record.revision != current and record.revision in there:
            return record.revision
    raise PlanRefused(
        f"{node} has no earlier revision to go back to",
        where=f"node {node}",
        hint=f"voxtractl dialplan history --node {node}",
    )


def _differing_kinds(old: Manifest | None, new: Manifest) -> tuple[str, ...]:
    if old is None:
        return naming.KINDS
    return tuple(kind for kind in naming.KINDS if old.marks.get(kind) != new.marks.get(kind))


def _not_before(when: datetime, tree: str, current: str | None) -> datetime:
    """A time whose revision name sorts after the current one, even when the clock went back."""
    while current is not None and revision_id(tree, when)[:16] <= current[:16]:
        when = datetime.strptime(current[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(seconds=1)
    return when


def _record(
    work: _Work, outcome: Outcome, revision: str, base: str | None, plan: Plan | None, reason: str = ""
) -> Record:
    return Record(
        when=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        who=work.options.who,
        node=work.node,
        outcome=outcome,
        revision=revision,
        base=base,
        tenants=len(plan.changes) if plan else 0,
        dids=plan.dids if plan else 0,
        deletes=len(plan.deletes) if plan else 0,
        ms=work.ms(),
        reason=reason,
    )


async def _keep_books(work: _Work, record: Record, snapshot: Snapshot, plan: Plan | None) -> tuple[str, ...]:
    """Audit line, old releases away, hand edits set aside. All is proven by now: trouble is a warning."""
    work.report(work.node, "record")
    aside: dict[str, str] = {}
    if plan is not None and plan.drift and snapshot.revision is not None:
        aside[snapshot.revision] = f"drift-{record.when.replace(':', '').replace('-', '')}"
    there = [r for r in (*snapshot.revisions, record.revision) if r not in aside]
    good = {snapshot.revision} if snapshot.revision else set()
    drop = prune(there, current=record.revision, good=good)
    try:
        await work.store.record(record, drop=drop, aside=aside)
    except NodeError as exc:  # the disk is full, or the connection went away at the last moment
        return (f"{work.node}: pushed and proven, but the audit line is missing: {exc.message}",)
    return tuple(f"{work.node}: the edited release is kept as releases/{name}" for name in aside.values())


async def _try_record(work: _Work, record: Record) -> None:
    """The audit line of a failure; the failure itself is what is reported, so a second one is left out."""
    try:
        await work.store.record(record)
    except NodeError:
        work.report(work.node, "the audit line could not be written")


def failed(node: str, error: VoxtractlError, *, plan: Plan | None = None, ms: int = 0) -> Result:
    """A node's failure as a result, for rollouts over many nodes."""
    return Result(node=node, status="failed", plan=plan, ms=ms, error=error)
