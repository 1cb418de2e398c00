"""How the lab touches the disk: whole files, whole trees, one lock; knows nothing of Asterisk."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from voxtractl.errors import LabError
from voxtractl.lab.ways import Report
from voxtractl.settings import Secret

__all__ = [
    "MARK",
    "claim",
    "is_claimed",
    "locked",
    "mark",
    "mounts_at_or_below",
    "read_json",
    "read_secret",
    "remove_tree",
    "size",
    "write",
]

MARK: Final = ".voxtractl-lab"  # the file that makes a folder the lab's own


@contextlib.contextmanager
def locked(home: Path, report: Report) -> Iterator[None]:
    """Hold the home's lock; the kernel frees it when we end, however we do."""
    try:
        handle = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LabError(
            f"cannot write in {home}: {exc.strerror}", hint="set VOXTRACTL_LAB_HOME to a folder of your own"
        ) from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another voxtractl that works on the labs in {home}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(path: Path, text: str, *, mode: int = 0o600, gid: int = -1) -> None:
    """Replace a file at once; it never is wider than ``mode`` and never half written."""
    partial = path.with_name(f".{path.name}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chown(partial, -1, gid)
    partial.chmod(mode)
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise LabError(
            f"cannot read {path}: {exc.strerror}", hint="is it another user's lab? set VOXTRACTL_LAB_HOME"
        ) from exc
    try:
        record: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return None  # a power cut may leave an empty file; what it told of is not running any more either
    return record


def read_secret(path: Path) -> Secret:
    try:
        return Secret(path.read_text(encoding="ascii").strip())
    except OSError as exc:
        raise LabError(
            f"cannot read {path}: {exc.strerror}",
            hint=f"make the lab anew: voxtractl lab down --purge --name {path.parent.name}",
        ) from exc


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def claim(folder: Path, mode: int = 0o711) -> None:
    """Make a folder that is the lab's own; only such a folder is ever deleted.

    Raises LabError when something is there already: it may be anybody's.
    """
    try:
        folder.mkdir()
    except FileExistsError as exc:
        raise LabError(
            f"{folder} exists and was not made by a lab",
            hint="move it away, use another --name, or set VOXTRACTL_LAB_HOME to a folder for labs only",
        ) from exc
    folder.chmod(mode)
    mark(folder)


def mark(folder: Path) -> None:
    (folder / MARK).write_text("Made by voxtractl's lab, which may delete this folder.\n", encoding="utf-8")


def is_claimed(folder: Path) -> bool:
    return not folder.is_symlink() and (folder / MARK).is_file()


def remove_tree(path: Path, claimed: Path) -> None:
    """Delete ``path``, which is ``claimed`` or below it, if it is there.

    Raises LabError and deletes nothing when ``claimed`` is no folder a lab made, when ``path`` leads out of
    it, or when something is mounted there.
    A home is any folder a person names, and may hold their own: a name alone never permits to delete.
    """
    if not path.is_symlink() and not path.exists():
        return
    if not is_claimed(claimed):
        raise LabError(
            f"{claimed} was not made by a lab, so nothing in it is deleted",
            hint="look at it, and delete it by hand if it is not needed",
        )
    # The last part stays as it is: a link is deleted, not what it points to.
    place, own = path.parent.resolve() / path.name, claimed.resolve()
    if own == Path(own.anchor) or (place != own and own not in place.parents):
        raise LabError(f"{path} is not inside {claimed}, so it is not deleted")
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for point in mounts_at_or_below(place, table):
        raise LabError(f"{point} is mounted inside {path}, so nothing is deleted", hint=f"umount {point}")
    shutil.rmtree(path)


def mounts_at_or_below(folder: Path, table: str) -> list[Path]:
    """The mount points of a mount table (proc_pid_mountinfo(5)) that deleting ``folder`` would run into."""
    # The fifth field; a blank is written as \\040.
    points = [Path(line.split()[4].replace("\\040", " ")) for line in table.splitlines()]
    return [point for point in points if point == folder or folder in point.parents]
