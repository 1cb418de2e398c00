"""Prepare a node: voxtractl's lines into Asterisk's own files, or out of them, and the proof that it worked.

    look    what would change, as values; nothing is touched
    init    guard → make the store → lock → an empty release if there is none → write → reload → prove
    remove  guard → lock → write → reload → prove that nothing of ours is live any more
              └ on failure after a write:  originals back → reload → what was live before is live again

The empty bundle comes first because an ``#include`` of a missing file leaves Asterisk without any dialplan at
its next start. No file is ever written before the release it names is in place.
"""

import asyncio
import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Literal

from voxtractl import naming
from voxtractl.ari import requests
from voxtractl.ari.client import ARIClient
from voxtractl.deploy.include import State, has_lines, with_lines, without_lines
from voxtractl.deploy.plan import Snapshot
from voxtractl.deploy.proof import Proof, prove, questions
from voxtractl.deploy.revision import Manifest, Outcome, Record, manifest_of, revision_id
from voxtractl.deploy.steps import Options, Report, Result, of_node, reload_kinds, to_its_end
from voxtractl.deploy.store.base import Store, include_prefix, parse_url
from voxtractl.errors import (
    AriError,
    DriftFound,
    NodeError,
    ReloadFailed,
    RollbackFailed,
    StalePlan,
    StoreError,
    UnsafePlan,
    VerifyFailed,
)
from voxtractl.model.node import Node
from voxtractl.render.bundle import Bundle

__all__ = ["Edit", "file_of", "hint_without", "init", "look", "prefix_of", "remove"]

Direction = Literal["in", "out"]

_STARTS_WITHOUT: Final = ("pjsip", "queues")  # Asterisk runs without these files; they are made when absent


@dataclass(frozen=True, slots=True)
class Edit:
    """One of Asterisk's own files: what it holds, and what it is to hold. ``old`` is None when absent."""

    kind: str
    name: str
    state: State
    old: bytes | None
    new: bytes

    @property
    def changes(self) -> bool:
        return self.new != (self.old or b"") or (self.old is None and bool(self.new))


def file_of(kind: str) -> str:
    """Asterisk's own file of a kind."""
    return f"{kind}.conf"


def hint_without(node: str, kind: str) -> str:
    """The next step where Asterisk's own file of a kind is absent."""
    if kind in _STARTS_WITHOUT:
        return f"voxtractl node init {node}"
    return f"set nodes.{node}.config_dir to the folder that holds it, or make an empty {file_of(kind)}"


def prefix_of(node: Node) -> str:
    """The node's store as Asterisk's includes name it. Raises StoreError when they cannot reach it."""
    try:
        place = parse_url(node.store)
        if place.scheme == "memory":
            return "voxtractl"
        return include_prefix(place.path, node.config_dir or posixpath.dirname(place.path))
    except ValueError as exc:
        what, _, todo = str(exc).partition("; ")
        raise StoreError(
            what, node=node.name, where=node.file or None, hint=todo or f"correct nodes.{node.name}.store"
        ) from exc


async def look(store: Store, node: str, prefix: str, direction: Direction = "in") -> tuple[Edit, ...]:
    """What ``init`` (in) or ``remove`` (out) would do to each file. Raises StoreError."""
    return tuple([await _edit(store, node, kind, prefix, direction) for kind in naming.KINDS])


async def init(
    store: Store,
    ari: ARIClient,
    bundle: Bundle,
    prefix: str,
    options: Options,
    report: Report,
    reviewed: Sequence[Edit] | None = None,
) -> Result:
    """Bring the lines in and prove that Asterisk reads the current release through them.

    ``bundle`` is the node's empty one; it is pushed only when nothing ever was. ``reviewed`` is what was
    shown: other files than these raise StalePlan. Raises ReloadFailed or VerifyFailed with the operator's
    files back as they were, RollbackFailed when that could not be proven.
    """
    started, node = monotonic(), bundle.node
    report(node, "ask Asterisk")
    await _guard(ari, node)
    await store.prepare()
    async with store.lock(options.who) as snapshot:
        _refuse_broken(node, snapshot)
        edits = await look(store, node, prefix)
        _compare(node, reviewed, edits)
        asleep = await _modules(ari, node, edits)
        manifest = snapshot.manifest
        if manifest is None:
            report(node, "push an empty release")
            manifest = _first(bundle, options)
            await store.push(manifest, bundle.files)
        asked = manifest.marks
        before = await _live(ari, node, asked)
        changed = [edit for edit in edits if edit.changes]
        if not changed and all(before.values()) and snapshot.manifest is not None:
            return Result(
                node=node, status="unchanged", revision=manifest.revision, base=manifest.base, ms=_ms(started)
            )
        # A kind that is not live is reloaded although its file is right: somebody forgot to.
        kinds = {edit.kind for edit in changed} | {kind for kind, live in before.items() if not live}
        work = _Work(store, ari, node, report, asked, before, asleep)
        proof = await work.carry_out(changed, kinds, "in")
        record = None
        if snapshot.manifest is None:
            record = _record(manifest, options, "pushed", started)
            await store.record(record)
        return Result(
            node=node,
            status="prepared",
            revision=manifest.revision,
            base=manifest.base,
            proof=proof,
            ms=_ms(started),
            record=record,
        )


async def remove(
    store: Store,
    ari: ARIClient,
    node: str,
    prefix: str,
    options: Options,
    report: Report,
    *,
    reviewed: Sequence[Edit] | None = None,
    tenants: int = 0,
) -> Result:
    """Take the lines out; the store stays. ``tenants`` is how many the operator knows will lose their calls:
    more than that raise UnsafePlan. Failures are as in ``init``."""
    started = monotonic()
    report(node, "ask Asterisk")
    await _guard(ari, node)
    await store.prepare()  # where the lock lies
    async with store.lock(options.who) as snapshot:
        there = len(snapshot.manifest.tenants) if snapshot.manifest else 0
        if there > tenants:
            raise UnsafePlan(
                f"{node} serves {there} tenants; without the lines none of their numbers is answered",
                where=f"node {node}",
                hint="if that is meant, confirm it or add --yes",
                details={"node": node, "tenants": there},
            )
        edits = await look(store, node, prefix, "out")
        _compare(node, reviewed, edits)
        changed = [edit for edit in edits if edit.changes]
        asked = snapshot.manifest.marks if snapshot.manifest else {}
        before = await _live(ari, node, asked)
        kinds = {edit.kind for edit in changed} | {kind for kind, live in before.items() if live}
        if not kinds:
            return Result(node=node, status="unchanged", revision=snapshot.revision, ms=_ms(started))
        work = _Work(store, ari, node, report, asked, before, frozenset())
        await work.carry_out(changed, kinds, "out")
        return Result(node=node, status="removed", revision=snapshot.revision, ms=_ms(started))


# --- the steps --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """What writing, reloading, proving and going back share."""

    store: Store
    ari: ARIClient
    node: str
    report: Report
    marks: Mapping[str, str]
    before: Mapping[str, bool]  # kind → whether its mark was live before
    asleep: frozenset[str]  # kinds whose module gave up at the start because its file was absent

    async def carry_out(self, edits: Sequence[Edit], kinds: Collection[str], direction: Direction) -> Proof:
        """Write, reload, prove; or leave everything as it was and raise why."""
        refused: set[str] = set()
        try:
            for edit in edits:
                self.report(self.node, f"write {edit.name}")
                await self.store.write_config(edit.name, edit.new)
            await self._load(kinds, refused)
            return await self._proven(direction)
        except NodeError as failure:
            await to_its_end(self._restore(edits, kinds, refused, failure.message))
            failure.message += "; Asterisk's own files are as they were"
            failure.args = (failure.message,)
            raise
        except asyncio.CancelledError:
            await to_its_end(self._restore(edits, kinds, refused, "interrupted"))
            raise

    async def _load(self, kinds: Collection[str], refused: set[str]) -> None:
        """Reload the modules of ``kinds``; a kind Asterisk refuses is noted, and ends it."""
        for kind in self.asleep:
            await _wake(self.ari, self.node, kind, self.report)
        try:
            await reload_kinds(self.ari, self.node, kinds, self.report)
        except ReloadFailed as exc:
            refused.add(str(exc.details["kind"]))
            raise

    async def _proven(self, direction: Direction) -> Proof:
        self.report(self.node, "verify")
        try:
            proof = await prove(self.ari, questions(self.marks, {}, ""))
        except AriError as exc:
            raise of_node(self.node, exc) from exc
        still = [kind for kind in self.marks if kind not in proof.missing_kinds]
        if direction == "in" and not proof.complete:
            raise VerifyFailed(
                f"the lines are in, but Asterisk does not read through them: {proof.sentence()}",
                node=self.node,
                hint="is an unfinished ;-- comment above them, or a file that Asterisk may not read?"
                f" see its log, and voxtractl node check {self.node}",
                details={"missing": proof.missing()},
            )
        if direction == "out" and still:
            raise VerifyFailed(
                f"the lines are out, but Asterisk still reads {' and '.join(still)}",
                node=self.node,
                hint="another of its files includes the store; look for voxtractl/current in them",
                details={"live": still},
            )
        return proof

    async def _restore(
        self, edits: Sequence[Edit], kinds: Collection[str], refused: Collection[str], reason: str
    ) -> None:
        """The originals back, reloaded; what was live before is live again. Raises RollbackFailed."""
        self.report(self.node, "put Asterisk's files back")
        state = "were to go back to what they were, but"
        try:
            for edit in edits:
                # One that could not be written cannot be written back either, and need not.
                if await self.store.read_config(edit.name) != edit.old:
                    await self.store.write_config(edit.name, edit.old or b"")
            state = "are as they were, but it is not proven that it runs them"
            # A file that Asterisk refused with our lines may be one that it refuses without them as well:
            # then it has kept what it had all along.
            again = [kind for kind in kinds if kind not in refused]
            await reload_kinds(self.ari, self.node, again, self.report)
            for kind in refused:
                await self._reload_again(kind)
            old = {kind: mark for kind, mark in self.marks.items() if self.before.get(kind)}
            why = (await prove(self.ari, questions(old, {}, ""))).sentence()
        except (NodeError, AriError) as exc:
            why = exc.message
        if why:
            raise RollbackFailed(
                f"{reason}; Asterisk's own files {state}: {why}",
                node=self.node,
                hint=f"look at Asterisk's log on {self.node}, then voxtractl node check {self.node}",
                details={"files": [edit.name for edit in edits]},
            )

    async def _reload_again(self, kind: str) -> None:
        try:
            await reload_kinds(self.ari, self.node, [kind], self.report)
        except ReloadFailed:
            self.report(self.node, f"Asterisk refuses {file_of(kind)} without our lines as well")


async def _edit(store: Store, node: str, kind: str, prefix: str, direction: Direction) -> Edit:
    name = file_of(kind)
    old = await store.read_config(name)
    if old is None and direction == "in" and kind not in _STARTS_WITHOUT:
        raise StoreError(
            f"there is no {name} in Asterisk's configuration folder on {node}",
            node=node,
            hint=hint_without(node, kind),
            details={"path": name},
        )
    text = old or b""
    new = with_lines(text, kind, prefix) if direction == "in" else without_lines(text)
    return Edit(kind, name, has_lines(text, kind, prefix), old, new)


async def _guard(ari: ARIClient, node: str) -> None:
    """ARI answers and its user may write. The label oracle is a POST: a read-only user is refused here."""
    try:
        await ari.ask(requests.probe_label(naming.LOADED_CONTEXT, "rev", "voxtractl"))
    except AriError as exc:
        raise of_node(node, exc) from exc


async def _modules(ari: ARIClient, node: str, edits: Sequence[Edit]) -> frozenset[str]:
    """The kinds whose module gave up at Asterisk's start because its file was absent.

    Raises NodeError when a module does not run for another reason.
    """
    asleep: set[str] = set()
    for edit in edits:
        module = requests.MODULES[edit.kind]
        try:
            answer = await ari.ask(requests.module(module))
        except AriError as exc:
            raise of_node(node, exc) from exc
        there = answer.status == 200 and isinstance(answer.body, dict)
        if there and answer.body.get("status") == "Running":
            continue
        if not (there and edit.old is None):
            raise NodeError(
                f"Asterisk has not loaded {module}, which reads {edit.name}",
                node=node,
                hint=f"take noload = {module} out of modules.conf, then: asterisk -rx 'module load {module}'",
                details={"module": module},
            )
        asleep.add(edit.kind)
    return frozenset(asleep)


async def _wake(ari: ARIClient, node: str, kind: str, report: Report) -> None:
    """Load a module again that gave up. A reload is refused ("has not been initialized"), and so is a load
    ("already loaded"); it must be unloaded first (measured on 22.10.1)."""
    module = requests.MODULES[kind]
    report(node, f"load {module}")
    try:
        for method in ("DELETE", "POST"):
            await ari.request(requests.module(module)._replace(method=method))
    except AriError as exc:
        raise of_node(node, exc) from exc


async def _live(ari: ARIClient, node: str, marks: Mapping[str, str]) -> dict[str, bool]:
    """Which of the marks are live now."""
    try:
        proof = await prove(ari, questions(marks, {}, ""))
    except AriError as exc:
        raise of_node(node, exc) from exc
    return {kind: kind not in proof.missing_kinds for kind in marks}


def _refuse_broken(node: str, snapshot: Snapshot) -> None:
    """An include must lead to a release; a damaged one is the push's to mend."""
    if snapshot.drift and snapshot.manifest is None:
        first = snapshot.drift[0]
        raise DriftFound(
            f"the current release on {node} cannot be read: {first.path} is {first.what}",
            where=f"node {node}",
            hint=f"voxtractl dialplan push --overwrite-drift --node {node} mends it",
            details={"node": node, "drift": [[d.path, d.what] for d in snapshot.drift]},
        )


def _compare(node: str, reviewed: Sequence[Edit] | None, edits: Sequence[Edit]) -> None:
    if reviewed is not None and tuple(reviewed) != tuple(edits):
        raise StalePlan(
            f"Asterisk's own files on {node} changed since they were shown",
            where=f"node {node}",
            hint="look at the difference again",
        )


def _first(bundle: Bundle, options: Options) -> Manifest:
    when = datetime.now(UTC)
    return manifest_of(
        bundle,
        revision=revision_id(bundle.tree, when),
        who=options.who,
        when=when,
        base=None,
        tool=options.tool,
    )


def _record(manifest: Manifest, options: Options, outcome: Outcome, started: float) -> Record:
    return Record(
        when=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        who=options.who,
        node=manifest.node,
        outcome=outcome,
        revision=manifest.revision,
        base=None,
        ms=_ms(started),
        reason="node init",
    )


def _ms(started: float) -> int:
    return round((monotonic() - started) * 1000)
