"""What a push would do to a node, as a value: Snapshot × Bundle → Plan. Pure: nothing is read or written.

A plan is shown, reviewed and applied by its digest. It refuses by itself what is dangerous: many deletions,
a DID that changes owner, a hand edit that would be lost.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from voxtractl import naming
from voxtractl.deploy.revision import FileRecord, Manifest
from voxtractl.errors import DriftFound, PlanRefused, UnsafePlan
from voxtractl.render.bundle import Bundle

__all__ = [
    "Change",
    "Drift",
    "FileChange",
    "FileState",
    "Move",
    "Plan",
    "Snapshot",
    "diff",
    "drift_of",
    "plans_digest",
]

DELETE_SHARE: Final = 0.30  # of the node's tenants
DELETE_COUNT: Final = 20

Action = Literal["add", "change", "delete"]


class FileState(NamedTuple):
    """A file as it lies on the node now. ``readable``: Asterisk's group may read it."""

    sha256: str
    size: int
    mode: int
    readable: bool = True


class Drift(NamedTuple):
    """One file of the current release that is not what was pushed."""

    path: str
    what: Literal["changed", "missing", "foreign", "unreadable", "manifest"]


class Snapshot(NamedTuple):
    """What a node has now. ``revision`` is None when nothing was ever pushed (or ``current`` is gone)."""

    revision: str | None = None
    manifest: Manifest | None = None
    files: Mapping[str, FileState] = MappingProxyType({})
    drift: tuple[Drift, ...] = ()
    revisions: tuple[str, ...] = ()  # complete releases on the node, oldest first


class Change(NamedTuple):
    """What happens to one tenant."""

    slug: str
    action: Action
    kinds: tuple[str, ...]
    dids_added: tuple[str, ...] = ()
    dids_removed: tuple[str, ...] = ()
    dids: tuple[str, ...] = ()  # all it has, before or after: what a mistake here would hit


class FileChange(NamedTuple):
    path: str
    action: Action


class Move(NamedTuple):
    """A DID that would go from one tenant to another."""

    did: str
    old: str
    new: str


@dataclass(frozen=True)
class Plan:
    """The difference between a node and its bundle; ``digest`` names exactly this difference."""

    node: str
    base: str | None  # revision the plan was made against
    base_tree: str | None
    tree: str
    total: int  # tenants after the push
    existing: int  # tenants before it
    changes: tuple[Change, ...]
    files: tuple[FileChange, ...]
    moves: tuple[Move, ...]
    drift: tuple[Drift, ...]
    digest: str

    @property
    def empty(self) -> bool:
        """True when the node's files are exactly the bundle already."""
        return not self.files and not self.drift

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds whose files change, in load order; only their modules are reloaded."""
        touched = {
            path.partition("/")[0].removesuffix(".conf").removesuffix("-end") for path in self._paths()
        }
        return tuple(kind for kind in naming.KINDS if kind in touched)

    def _paths(self) -> Iterable[str]:
        yield from (change.path for change in self.files)
        yield from (d.path for d in self.drift)

    @property
    def deletes(self) -> tuple[str, ...]:
        return tuple(c.slug for c in self.changes if c.action == "delete")

    @property
    def dids(self) -> int:
        """How many DIDs the changed tenants have, before or after."""
        return len({did for change in self.changes for did in change.dids})

    def blast_radius(self) -> str:
        """One line for a reviewer: ``changes 1 of 214 tenants, 3 DIDs; 0 deletions``."""
        tenants = len([c for c in self.changes if c.action != "delete"])
        deletions = len(self.deletes)
        line = f"changes {tenants} of {_count(self.total, 'tenant')}, {_count(self.dids, 'DID')}"
        line += f"; {_count(deletions, 'deletion')}"
        if self.files and not self.changes:
            line += "; only files that belong to no tenant"
        if self.moves:
            line += f"; {_count(len(self.moves), 'DID')} changing owner"
        if self.drift:
            line += f"; drift in {_count(len(self.drift), 'file')}"
        return line

    def raise_if_unsafe(
        self, *, allow_deletes: int = 0, allow_move: bool = False, overwrite_drift: bool = False
    ) -> None:
        """Raises UnsafePlan or DriftFound; says the counts and the flag that allows it. PlanRefused when the
        node was never prepared."""
        if self.base is None and not self.drift:
            raise PlanRefused(
                "it was never prepared: Asterisk would not read what is pushed",
                where=f"node {self.node}",
                hint=f"voxtractl node init {self.node}",
            )
        deletes = len(self.deletes)
        too_many = deletes > DELETE_COUNT or (self.existing and deletes / self.existing > DELETE_SHARE)
        if too_many and deletes > allow_deletes:
            raise UnsafePlan(
                f"the plan deletes {deletes} of {self.existing} tenants on {self.node}"
                f" ({', '.join(self.deletes[:5])}{', …' if deletes > 5 else ''})",
                where=f"node {self.node}",
                hint=f"if that is meant, push with --allow-deletes {deletes}",
                details={"node": self.node, "deletes": list(self.deletes), "existing": self.existing},
            )
        if self.moves and not allow_move:
            first = self.moves[0]
            raise UnsafePlan(
                f"{_count(len(self.moves), 'DID')} would change owner on {self.node}:"
                f" {first.did} from {first.old} to {first.new}{', …' if len(self.moves) > 1 else ''}",
                where=f"node {self.node}",
                hint="if that is meant, push with --allow-move",
                details={"node": self.node, "moves": [[m.did, m.old, m.new] for m in self.moves]},
            )
        if self.drift and not overwrite_drift:
            first_drift = self.drift[0]
            raise DriftFound(
                f"{_count(len(self.drift), 'file')} on {self.node} differ from what was pushed:"
                f" {first_drift.path} ({first_drift.what}){', …' if len(self.drift) > 1 else ''}",
                where=f"node {self.node}",
                hint="push with --overwrite-drift; the edited files are kept beside the releases",
                details={"node": self.node, "drift": [[d.path, d.what] for d in self.drift]},
            )


def diff(snapshot: Snapshot, bundle: Bundle) -> Plan:
    """The plan that turns ``snapshot`` into ``bundle``."""
    manifest = snapshot.manifest
    before = manifest.tenants if manifest else {}
    changes: list[Change] = []
    for slug in sorted(before.keys() | bundle.tenants.keys()):
        old, new = before.get(slug), bundle.tenants.get(slug)
        if old == new:
            continue
        was, now = (set(old.dids) if old else set()), (set(new.dids) if new else set())
        digests = [state.digests if state else {} for state in (old, new)]
        kinds = tuple(k for k in naming.KINDS if digests[0].get(k) != digests[1].get(k))
        action: Action = "add" if old is None else "delete" if new is None else "change"
        changes.append(
            Change(
                slug,
                action,
                kinds,
                dids_added=tuple(sorted(now - was)),
                dids_removed=tuple(sorted(was - now)),
                dids=tuple(sorted(was | now)),
            )
        )
    owners = {did: slug for slug, state in before.items() for did in state.dids}
    moves = tuple(
        Move(did, owners[did], change.slug)
        for change in changes
        for did in change.dids_added
        if did in owners
    )
    base_tree = manifest.tree if manifest else None
    return Plan(
        node=bundle.node,
        base=snapshot.revision,
        base_tree=base_tree,
        tree=bundle.tree,
        total=len(bundle.tenants),
        existing=len(before),
        changes=tuple(changes),
        files=_file_changes(manifest.files if manifest else {}, bundle.files),
        moves=moves,
        drift=snapshot.drift,
        digest=_digest(
            [
                bundle.node,
                snapshot.revision,
                base_tree,
                bundle.tree,
                [[d.path, d.what] for d in snapshot.drift],
            ]
        ),
    )


def drift_of(manifest: Manifest, actual: Mapping[str, FileState]) -> tuple[Drift, ...]:
    """Where the node's files are not what the manifest says (``actual`` is without ``manifest.json``)."""
    found: list[Drift] = []
    for path, record in manifest.files.items():
        state = actual.get(path)
        if state is None:
            found.append(Drift(path, "missing"))
        elif state.sha256 != record.sha256:
            found.append(Drift(path, "changed"))
        elif not state.readable:
            found.append(Drift(path, "unreadable"))
    found.extend(Drift(path, "foreign") for path in actual if path not in manifest.files)
    return tuple(sorted(found, key=lambda d: d.path))


def plans_digest(plans: Sequence[Plan]) -> str:
    """One digest for the plans of several nodes: what ``push --plan`` is given."""
    return plans[0].digest if len(plans) == 1 else _digest(sorted(plan.digest for plan in plans))


def _file_changes(before: Mapping[str, FileRecord], after: Mapping[str, bytes]) -> tuple[FileChange, ...]:
    changes: list[FileChange] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old is None:
            changes.append(FileChange(path, "add"))
        elif new is None:
            changes.append(FileChange(path, "delete"))
        elif old.size != len(new) or old.sha256 != hashlib.sha256(new).hexdigest():
            changes.append(FileChange(path, "change"))
    return tuple(changes)


def _digest(value: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
