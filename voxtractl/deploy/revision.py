"""A revision: a bundle that was pushed, as its manifest describes it. Pure: times come in as arguments.

releases/<revision>/manifest.json   what was pushed, by whom, on which base; sha256, size, mode of every file
audit.jsonl                         one Record a push or rollback, whatever came of it
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal, NamedTuple

from voxtractl.render.bundle import Bundle, TenantState

__all__ = [
    "FILE_MODE",
    "KEEP",
    "FileRecord",
    "Manifest",
    "Outcome",
    "Record",
    "manifest_of",
    "prune",
    "revision_id",
]

FORMAT: Final = 1
FILE_MODE: Final = 0o640  # never wider: pjsip.conf holds trunk passwords
KEEP: Final = 5  # releases kept on a node besides the current and the last good one

Outcome = Literal["pushed", "rolled-back", "rollback", "rollback-failed", "failed"]


class FileRecord(NamedTuple):
    sha256: str
    size: int
    mode: int = FILE_MODE


@dataclass(frozen=True)
class Manifest:
    """The description that lies beside a release's files. ``when`` is RFC 3339 in UTC."""

    revision: str
    node: str
    tree: str
    who: str
    when: str
    base: str | None
    tool: str
    trunk_context: str
    marks: Mapping[str, str]
    files: Mapping[str, FileRecord]
    tenants: Mapping[str, TenantState]

    def to_json(self) -> bytes:
        document = {
            "format": FORMAT,
            "revision": self.revision,
            "node": self.node,
            "tree": self.tree,
            "who": self.who,
            "when": self.when,
            "base": self.base,
            "tool": self.tool,
            "trunk_context": self.trunk_context,
            "marks": dict(self.marks),
            "files": {path: [r.sha256, r.size, f"{r.mode:04o}"] for path, r in self.files.items()},
            "tenants": {
                slug: [s.label, list(s.dids), dict(s.digests), s.endpoint, list(s.queues)]
                for slug, s in self.tenants.items()
            },
        }
        return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Manifest":
        """Raises ValueError that says what is wrong; the caller adds the node and the path."""
        try:
            d = json.loads(content)
            if d["format"] != FORMAT:
                raise ValueError(
                    f"manifest format {d['format']} is not {FORMAT}; it was written by {d.get('tool')}"
                )
            return cls(
                revision=d["revision"],
                node=d["node"],
                tree=d["tree"],
                who=d["who"],
                when=d["when"],
                base=d["base"],
                tool=d["tool"],
                trunk_context=d["trunk_context"],
                marks=d["marks"],
                files={path: FileRecord(r[0], r[1], int(r[2], 8)) for path, r in d["files"].items()},
                tenants={
                    slug: TenantState(s[0], tuple(s[1]), s[2], s[3], tuple(s[4]))
                    for slug, s in d["tenants"].items()
                },
            )
        except (KeyError, TypeError, IndexError, AttributeError) as exc:
            raise ValueError(f"not a manifest: {exc!r}") from exc


class Record(NamedTuple):
    """One line of the audit file: what one push or rollback did to one node."""

    when: str
    who: str
    node: str
    outcome: Outcome
    revision: str
    base: str | None
    tenants: int = 0  # tenants changed
    dids: int = 0  # DIDs touched
    deletes: int = 0
    ms: int = 0
    reason: str = ""  # why it failed, without secrets

    def to_line(self) -> str:
        return json.dumps(self._asdict(), ensure_ascii=True, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Record":
        """Raises ValueError for a line that is no record (a power loss may cut the last one)."""
        try:
            return cls(**json.loads(line))
        except TypeError as exc:
            raise ValueError(f"not an audit line: {exc}") from exc


def revision_id(tree: str, when: datetime) -> str:
    """``20261123T061500Z-3f9c01d2a7b4``: sorts by time, names its content."""
    return f"{when.astimezone(UTC):%Y%m%dT%H%M%SZ}-{tree[:12]}"


def manifest_of(
    bundle: Bundle, *, revision: str, who: str, when: datetime, base: str | None, tool: str
) -> Manifest:
    """The manifest of a bundle about to be pushed."""
    return Manifest(
        revision=revision,
        node=bundle.node,
        tree=bundle.tree,
        who=who,
        when=when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        base=base,
        tool=tool,
        trunk_context=bundle.trunk_context,
        marks=bundle.marks,
        files={
            path: FileRecord(sha256(content).hexdigest(), len(content))
            for path, content in bundle.files.items()
        },
        tenants=bundle.tenants,
    )


def prune(revisions: Sequence[str], *, current: str | None, good: Collection[str]) -> tuple[str, ...]:
    """The revisions that may go: all but the newest KEEP, the current one and the ``good`` ones named."""
    keep = set(sorted(revisions)[-KEEP:]) | {current} | set(good)
    return tuple(r for r in sorted(revisions) if r not in keep)
