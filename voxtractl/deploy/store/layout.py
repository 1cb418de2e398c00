"""What every store has in common: the names inside the folder, and how what was read becomes a value.

Pure functions of bytes and names; who reads and writes them (disk, SSH, memory) is the stores' own matter.
"""

import errno
import json
import posixpath
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from voxtractl.deploy.plan import Drift, FileState, Snapshot, drift_of
from voxtractl.deploy.revision import Manifest, Record
from voxtractl.deploy.store.base import StoreFacts
from voxtractl.errors import NodeLocked, StoreError

__all__ = [
    "AUDIT",
    "BEAT",
    "CURRENT",
    "DRIFT",
    "LEASE",
    "LEASE_SECONDS",
    "LOCK",
    "MANIFEST",
    "RELEASES",
    "ROOM_FACTOR",
    "STAGE",
    "already_current",
    "check_config_name",
    "check_files",
    "check_release",
    "check_release_change",
    "check_stage",
    "disk_full",
    "facts_of",
    "group_may",
    "hint_for",
    "history_of",
    "holder_text",
    "is_folder",
    "is_revision",
    "locked",
    "manifest_or_error",
    "no_folder",
    "no_lock",
    "no_release",
    "not_as_sent",
    "not_open",
    "refused",
    "revision_of",
    "room_needed",
    "snapshot_of",
    "stays",
    "unreadable",
]

RELEASES: Final = "releases"
CURRENT: Final = "current"
MANIFEST: Final = "manifest.json"
AUDIT: Final = "audit.jsonl"
LOCK: Final = ".lock"
LEASE: Final = ".lease"  # the lock of a key that may only do SFTP: a file, not a flock
STAGE: Final = ".stage-"
DRIFT: Final = "drift-"

BEAT: Final = 15.0  # seconds between two signs of life of a lock's holder
LEASE_SECONDS: Final = 60.0  # a holder without a sign of life for this long is dead (four beats missed)
ROOM_FACTOR: Final = 2  # free space wanted, as a multiple of what is sent: blocks are bigger than files

_KEPT: Final = f"the revisions that are kept are the folders below {RELEASES}/ on the node"

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_PATH: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_NAME: Final = re.compile(_PART)


# --- names from outside ---------------------------------------------------------------------------------


def check_files(node: str, paths: Iterable[str]) -> None:
    """Raises StoreError unless every path is relative, clean and not the manifest's own.

    ``../../extensions.conf``, ``/etc/passwd``, ``a//b``, a hidden name or one with a line break never reach
    a node.
    """
    for path in paths:
        if _PATH.fullmatch(path) is None or path == MANIFEST:
            raise StoreError(
                f"{path!r} is not a file name a release may hold",
                node=node,
                hint="use letters, digits, dot, dash and underscore, in folders below the release",
                details={"path": path},
            )


def check_release(node: str, name: str) -> None:
    """Raises StoreError unless ``name`` can be the name of a release."""
    if _NAME.fullmatch(name) is None:
        raise StoreError(
            f"{name!r} is not the name of a revision",
            node=node,
            hint=_KEPT,
            details={"path": name},
        )


def check_config_name(node: str, name: str) -> None:
    """Raises StoreError unless ``name`` is a plain file name in Asterisk's configuration folder."""
    if _NAME.fullmatch(name) is None:
        raise StoreError(
            f"{name!r} is not a file of Asterisk's configuration folder",
            node=node,
            hint="give a plain file name such as extensions.conf",
            details={"path": name},
        )


def check_release_change(
    node: str, current: str | None, drop: Collection[str], aside: Mapping[str, str]
) -> None:
    """Raises StoreError when a release that is to be removed or renamed is the current one."""
    for name in (*drop, *aside, *aside.values()):
        check_release(node, name)
        if name == current:
            raise stays(node, name)


def revision_of(link: str | None) -> str | None:
    """The revision a ``current`` link leads to by its text; None when it leads nowhere we know."""
    folder, name = posixpath.split(link or "")
    return name if folder == RELEASES and is_revision(name) else None


def is_revision(name: str) -> bool:
    """True for the name of a release that may become current: not one set aside, not a hidden one."""
    return _NAME.fullmatch(name) is not None and not name.startswith(DRIFT)


# --- what was read --------------------------------------------------------------------------------------


def snapshot_of(
    link: str | None,
    manifest: bytes | None,
    actual: Mapping[str, FileState] | None,
    revisions: Collection[str] = (),
) -> Snapshot:
    """What a node has, from the target of ``current``, the manifest's bytes and the release's files.

    ``link`` is None when there is no ``current``: nothing was ever pushed. ``actual`` is None when
    the link leads to no release: then there is no revision, and the link itself is the drift (missing: its
    release is gone; foreign: it leads elsewhere). A manifest that cannot be read leaves the revision's
    name and its files, and ``manifest.json`` is the drift. A push with --overwrite-drift heals all of them.
    """
    complete = tuple(sorted(name for name in revisions if is_revision(name)))
    if actual is not None:
        actual = {_shown(path): state for path, state in actual.items()}
    name = revision_of(link)
    if name is None or actual is None:
        drift: tuple[Drift, ...] = ()
        if link is not None:
            drift = (Drift(CURRENT, "foreign" if name is None else "missing"),)
        return Snapshot(drift=drift, revisions=complete)
    try:
        parsed = Manifest.from_json(manifest or b"")
    except ValueError:
        parsed = None
    if parsed is None or parsed.revision != name:
        damaged = (Drift(MANIFEST, "manifest"),)
        return Snapshot(revision=name, files=actual, drift=damaged, revisions=complete)
    drift = tuple(
        d._replace(what="unreadable") if d.what == "changed" and not actual[d.path].sha256 else d
        for d in drift_of(parsed, actual)
    )
    return Snapshot(revision=name, manifest=parsed, files=actual, drift=drift, revisions=complete)


def _shown(path: str) -> str:
    """A file name as it may be printed: somebody on the node may have made one with any bytes in it."""
    return "".join(letter if letter.isprintable() else "?" for letter in path)


def manifest_or_error(node: str, revision: str, content: bytes | None) -> Manifest:
    """The manifest of a release; StoreError when there is none or it is damaged."""
    if content is None:
        raise no_release(node, revision)
    try:
        return Manifest.from_json(content)
    except ValueError as exc:
        raise StoreError(
            f"the manifest of release {revision} on {node} is damaged: {exc}",
            node=node,
            hint="choose another revision, or push the document",
            details={"path": f"{RELEASES}/{revision}/{MANIFEST}"},
        ) from exc


def history_of(content: bytes) -> tuple[Record, ...]:
    """The records of an audit file; lines a power loss cut are left out."""
    records: list[Record] = []
    for line in content.decode("utf-8", "replace").splitlines():
        try:
            records.append(Record.from_line(line))
        except ValueError:
            continue
    return tuple(records)


def check_stage(node: str, manifest: Manifest, staged: Mapping[str, FileState]) -> None:
    """Raises StoreError unless what lies in a stage is what the manifest says, readable by Asterisk."""
    wrong = drift_of(manifest, staged)
    if not wrong:
        return
    if all(d.what == "unreadable" for d in wrong):
        raise unreadable(node, [d.path for d in wrong])
    raise not_as_sent(node, [f"{d.path} ({d.what})" for d in wrong])


def facts_of(
    node: str,
    root: str,
    config_dir: str,
    *,
    group: tuple[int, str] | None,
    folder: tuple[int, int] | None,
    closed: str,
    member: bool,
    free_bytes: int | None,
    clock: float | None,
) -> StoreFacts:
    """What ``node check`` says of a store on a disk, here or far away.

    ``group`` is number and name of the configuration folder's group (None: no such folder), ``folder`` mode
    and group of the store folder (None: no such folder), ``closed`` the folder of the store that the pushing
    user may not write to ("" when there is none), ``member`` whether that user may give files to the group.
    """
    fits = False
    if group is None:
        why = f"Asterisk's configuration folder {config_dir} does not exist"
        why += f"; set nodes.{node}.config_dir to the folder that holds extensions.conf"
    elif folder is None:
        why = f"the store folder {root} does not exist; voxtractl node init {node} makes it"
    else:
        mode, owner = folder
        inherits = owner == group[0] and bool(mode & stat.S_ISGID)
        fits = (inherits or member) and group_may(mode, owner, group[0], 0o5)
        if closed:
            why = f"you may not write to {closed}; push as its owner"
            why += f", or let it belong to the owner of {root}" if closed != root else ""
        elif not fits:
            name = group[1]
            why = f"files in {root} would not be readable by the group {name}; run: chgrp {name} {root}"
            why += f"; chmod 2750 {root}; and make the pushing user a member of {name}"
        else:
            why = ""
    return StoreFacts(
        config_dir=config_dir,
        exists=folder is not None,
        writable=folder is not None and not closed,
        group=group[1] if group else "",
        group_readable=fits,
        free_bytes=free_bytes,
        clock=clock,
        why=why,
    )


def group_may(mode: int, owner: int, group: int, bits: int) -> bool:
    """May ``group`` do ``bits`` (4 read, 1 enter) with something of group ``owner``?

    The owner's own rights do not count: they are the pushing user's, not Asterisk's.
    """
    return (mode >> (3 if owner == group else 0)) & bits == bits


def room_needed(files: Mapping[str, bytes]) -> int:
    """Bytes that must be free before a stage is begun."""
    return ROOM_FACTOR * sum(len(content) + 512 for content in files.values())


# --- the lock's text ------------------------------------------------------------------------------------


def holder_text(holder: str, *, pid: int, host: str, since: str) -> str:
    """The line a lock's holder leaves for those who come too late. ``since`` is RFC 3339 in UTC."""
    words = {"holder": holder, "pid": pid, "host": host, "since": since}
    return json.dumps(words, separators=(",", ":")) + "\n"


def locked(node: str, text: str) -> NodeLocked:
    """The error for somebody who came too late; ``text`` is what the holder left, if anything."""
    try:
        words = json.loads(text)
        holder = f"{words['holder']} (process {words['pid']} on {words['host']}, since {words['since']})"
    except (ValueError, KeyError, TypeError):
        words, holder = {}, "somebody who left no name"
    return NodeLocked(
        f"{node} is being worked on by {holder}",
        where=f"node {node}",
        hint="wait for it to end; the lock frees itself when its holder dies",
        details={"node": node, "holder": words},
    )


# --- errors every store has -----------------------------------------------------------------------------


def no_lock(node: str, what: str) -> StoreError:
    return StoreError(
        f"{what} on {node} needs the node's lock; it was not taken, or it ended with the record",
        node=node,
        hint="do it inside `async with store.lock(holder)`, before record()",
    )


def not_open(node: str) -> StoreError:
    return StoreError(f"the store of {node} is not open", node=node, hint="use it inside `async with store`")


def no_folder(node: str, path: str) -> StoreError:
    return StoreError(
        f"the store folder {path} does not exist on {node}",
        node=node,
        hint=f"voxtractl node init {node} makes it",
        details={"path": path},
    )


def no_release(node: str, revision: str) -> StoreError:
    return StoreError(
        f"{node} has no release {revision}",
        node=node,
        hint=_KEPT,
        details={"path": f"{RELEASES}/{revision}"},
    )


def already_current(node: str, revision: str) -> StoreError:
    return StoreError(
        f"release {revision} is current on {node} already and is not written again",
        node=node,
        hint="push again: a second later the revision has another name",
        details={"path": f"{RELEASES}/{revision}"},
    )


def is_folder(mode: int) -> bool:
    """True for the mode bits of a folder."""
    return stat.S_ISDIR(mode)


def unreadable(node: str, paths: Sequence[str]) -> StoreError:
    return refused(
        node,
        "make the new release current",
        f"Asterisk's group could not read {_some(paths)}",
        path=paths[0] if paths else STAGE,
        hint="make the user that pushes a member of that group, and the store folder mode 2750 of that group",
    )


def not_as_sent(node: str, paths: Sequence[str]) -> StoreError:
    return refused(
        node,
        "make the new release current",
        f"what arrived is not what was sent: {_some(paths)}",
        path=paths[0] if paths else STAGE,
        hint="push again; if it happens again, something on the node changes the files",
    )


def hint_for(number: int | None) -> str:
    """The next step for an errno."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the node; the old release is still current"
    if number in (errno.EACCES, errno.EPERM):
        return "push as a user that may write to the store folder and is in Asterisk's group"
    if number == errno.EROFS:
        return "the disk is mounted read-only; look at the node's kernel log"
    return "correct it on the node and try again; the old release is still current"


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (", …" if len(words) > 3 else "")


def stays(node: str, revision: str) -> StoreError:
    return StoreError(
        f"release {revision} is current on {node} and stays where it is",
        node=node,
        hint="make another revision current first",
        details={"path": f"{RELEASES}/{revision}"},
    )


def disk_full(node: str, free: int) -> StoreError:
    return StoreError(
        f"the disk of {node} is too full to stage a release: only {free} bytes are free",
        node=node,
        hint="make room on the node; nothing was changed",
        details={"free": free},
    )


def refused(node: str, doing: str, why: str, *, path: str, hint: str) -> StoreError:
    """``cannot stage releases on pbx1: disk full``; the place is the path on the node."""
    return StoreError(
        f"cannot {doing} on {node}: {why}",
        node=node,
        where=f"node {node}: {path}",
        hint=hint,
        details={"path": path},
    )
