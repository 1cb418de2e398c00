"""How the lab touches the disk: whole files, whole trees, one lock; knows nothing of Asterisk."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voxtractl.errors import LabError
from voxtractl.lab.ways import Report
from voxtractl.settings import Secret

__all__ = ["locked", "read_json", "read_secret", "remove_tree", "size", "write"]


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


def remove_tree(folder: Path) -> None:
    """Delete a file or folder of the lab if it is there, and refuse when something is mounted below it."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    inside = f"{folder.resolve()}/"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        # The fifth field, with blanks written as \040 (proc_pid_mountinfo(5)).
        point = line.split()[4].replace("\\040", " ")
        if point.startswith(inside):
            raise LabError(
                f"{point} is mounted inside {folder}, so it is not deleted", hint=f"umount {point}"
            )
    shutil.rmtree(folder)
