"""One store folder on this machine's disk: blocking calls, in the order that survives a power loss.

A push writes all files of a stage, then reads every one back and recomputes it, then syncs files and
folders, then renames the stage to its release and syncs ``releases``; only then is the link replaced, and
the store folder synced. At any instant the link leads to a release that is whole on the disk. No event loop
here: ``local.py`` decides what runs in a thread.
"""

import errno
import fcntl
import grp
import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePath

from voxtractl.deploy.plan import FileState, Snapshot
from voxtractl.deploy.revision import FILE_MODE, Manifest, Record
from voxtractl.deploy.store import layout
from voxtractl.deploy.store.base import StoreFacts

__all__ = ["Folder", "Stopped"]

FOLDER_MODE = 0o750  # setgid comes by inheritance from the store folder (2750), never by chmod


# Syncs that wait together share one journal commit: 100 files in 16 to 34 ms, one by one 40 to 300 (measured
# on a busy ext4).
SYNCS_AT_ONCE = 16


class Stopped(Exception):
    """The push was told to stop; everything is as before."""


class Folder:
    """The store folder of a node and Asterisk's configuration folder beside it."""

    def __init__(self, node: str, root: Path, config: Path) -> None:
        self._node = node
        self._root = root
        self._config = config

    # --- reading ------------------------------------------------------------------------------------------

    def observe(self) -> Snapshot:
        with self._translated("read the current release", self._root / layout.CURRENT):
            link, revisions = self.link(), self.revisions()
            revision = layout.revision_of(link)
            release = self._root / layout.RELEASES / (revision or "")
            if revision is None or not _is_folder(release):
                return layout.snapshot_of(link, None, None, revisions)
            actual = dict(sorted(self._walk(release, self._group())))
            actual.pop(layout.MANIFEST, None)
            return layout.snapshot_of(link, _content(release / layout.MANIFEST), actual, revisions)

    def _walk(
        self, folder: Path, group: int, prefix: str = "", reach: bool = True
    ) -> Iterator[tuple[str, FileState]]:
        """Every entry below ``folder``; links are reported and never followed."""
        reach = reach and _readable(folder.lstat(), group, 0o5)
        try:
            entries = sorted(folder.iterdir())
        except PermissionError:
            return
        for entry in entries:
            status = entry.lstat()
            path = prefix + entry.name
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(entry, group, f"{path}/", reach)
                continue
            content = _content(entry)
            yield (
                path,
                FileState(
                    "" if content is None else sha256(content).hexdigest(),
                    status.st_size,
                    stat.S_IMODE(status.st_mode),
                    content is not None and reach and _readable(status, group, 0o4),
                ),
            )

    def read(self, paths: Sequence[str], revision: str | None) -> dict[str, bytes]:
        revision = revision if revision is not None else self.current()
        if revision is None:
            return {}
        layout.check_release(self._node, revision)
        layout.check_files(self._node, [path for path in paths if path != layout.MANIFEST])
        found = {path: self.file(revision, path) for path in paths}
        return {path: content for path, content in found.items() if content is not None}

    def file(self, revision: str, path: str) -> bytes | None:
        """A file of a release; None when it is absent, or when a link stands anywhere on the way."""
        at = self._root / layout.RELEASES / revision
        *folders, name = Path(path).parts
        for folder in ("", *folders):
            at /= folder
            if not _is_folder(at):
                return None
        with self._translated("read a release", at / name):
            return _content(at / name)

    def revisions(self) -> tuple[str, ...]:
        folder = self._root / layout.RELEASES
        with self._translated("list the releases", folder), suppress(FileNotFoundError):
            return tuple(
                sorted(
                    entry.name
                    for entry in folder.iterdir()
                    if layout.is_revision(entry.name) and (entry / layout.MANIFEST).is_file()
                )
            )
        return ()

    def audit(self) -> bytes:
        path = self._root / layout.AUDIT
        with self._translated("read the history", path), suppress(FileNotFoundError):
            return path.read_bytes()
        return b""

    def read_config(self, name: str) -> bytes | None:
        path = self._config / name
        with self._translated("read Asterisk's configuration", path), suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    # --- the lock -----------------------------------------------------------------------------------------

    def take_lock(self, holder: str) -> int:
        """flock, which the kernel gives back when the holder dies, however it dies."""
        path = self._root / layout.LOCK
        with self._translated("take the lock", path):
            if not self._root.is_dir():
                raise layout.no_folder(self._node, str(self._root))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as exc:
                    raise layout.locked(self._node, os.pread(fd, 4096, 0).decode("utf-8", "replace")) from exc
                # First our name, then a look for a lease; who takes a lease does it the other way round, so
                # that of two who come at the same instant one sees the other.
                since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
                text = layout.holder_text(holder, pid=os.getpid(), host=platform.node(), since=since)
                self._hand_over(fd, self._group())
                os.ftruncate(fd, 0)
                os.pwrite(fd, text.encode(), 0)
                self._refuse_lease(fd)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def _refuse_lease(self, lock: int) -> None:
        """A key that may only do SFTP cannot flock: its lock is a file, dead when it rests for long."""
        lease = self._root / layout.LEASE
        with suppress(FileNotFoundError):
            if time.time() - lease.lstat().st_mtime < layout.LEASE_SECONDS:
                os.ftruncate(lock, 0)
                raise layout.locked(self._node, (_content(lease) or b"").decode("utf-8", "replace"))
            lease.unlink()

    @staticmethod
    def beat(lock: int) -> None:
        """The sign of life that keys with SFTP only look for; others see the flock itself."""
        os.utime(lock)

    @staticmethod
    def give_back(lock: int) -> None:
        with suppress(OSError):  # closing is what gives the lock back
            os.ftruncate(lock, 0)
        os.close(lock)

    # --- writing ------------------------------------------------------------------------------------------

    def push(self, manifest: Manifest, files: Mapping[str, bytes], stopped: Callable[[], bool]) -> None:
        """Stage, check, flip. Raises Stopped when ``stopped()`` becomes true on the way."""
        target = f"{layout.RELEASES}/{manifest.revision}"
        stage = self._root / f"{layout.STAGE}{manifest.revision}-{os.getpid()}"
        release = self._root / target
        content = {**files, layout.MANIFEST: manifest.to_json()}
        with self._translated("stage a release", stage):
            if self.link() == target:
                raise layout.already_current(self._node, manifest.revision)
            self._sweep()
            self._need_room(content)
            group = self._group()
            moved = False
            try:
                self._write(stage, content, group, stopped)
                self._make_folder(release.parent, group)
                self._check(stage, manifest, content, group, stopped)
                if release.exists():  # the same tree pushed, rolled back and pushed within one second
                    release.rename(self._root / f"{layout.STAGE}old-{manifest.revision}")
                stage.rename(release)
                moved = True
                _sync(release.parent)
                _go_on(stopped)
                self.point(target)
            except BaseException:
                if moved:
                    self.withdraw(manifest.revision)
                shutil.rmtree(stage, ignore_errors=True)
                raise

    def withdraw(self, revision: str) -> None:
        """Remove a release that was not to become current after all; never the one that is."""
        release = self._root / layout.RELEASES / revision
        with suppress(OSError):
            if self.link() != f"{layout.RELEASES}/{revision}":
                release.rename(self._root / f"{layout.STAGE}gone-{revision}")
            self._sweep()

    def _sweep(self) -> None:
        """Remove what dead pushes left; we hold the lock, so nobody alive owns a stage."""
        for leftover in self._root.glob(f"{layout.STAGE}*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def _need_room(self, files: Mapping[str, bytes]) -> None:
        room = os.statvfs(self._root)
        wanted, free = layout.room_needed(files), room.f_bavail * room.f_frsize
        if free < wanted:
            raise layout.disk_full(self._node, free)
        if room.f_files and room.f_favail < 2 * len(files):
            raise OSError(errno.ENOSPC, "no inodes are left on the disk")

    def _write(
        self, stage: Path, files: Mapping[str, bytes], group: int, stopped: Callable[[], bool]
    ) -> None:
        for folder in sorted(_folders(stage, files)):
            self._make_folder(folder, group)
        for path, content in files.items():
            _go_on(stopped)
            fd = os.open(stage / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
            with os.fdopen(fd, "wb", buffering=0) as file:
                os.fchmod(fd, FILE_MODE)  # a umask of 077 would hide it from Asterisk
                self._hand_over(fd, group)
                _write_all(file.fileno(), content)

    def _make_folder(self, folder: Path, group: int) -> None:
        with suppress(FileExistsError):
            folder.mkdir(FOLDER_MODE)
            self._hand_over(folder, group)
            if folder.stat().st_mode & FOLDER_MODE != FOLDER_MODE:  # only a strict umask leads here
                folder.chmod(folder.stat().st_mode | FOLDER_MODE)

    def _hand_over(self, target: int | Path, group: int) -> None:
        """To Asterisk's group; and from root to the owner of the store, who may push over SSH next time."""
        status = os.stat(target)  # noqa: PTH116  a folder or an open file
        owner = self._root.stat().st_uid if os.geteuid() == 0 else -1
        if status.st_gid != group or owner not in (-1, status.st_uid):
            with suppress(PermissionError):  # the check before the flip says it better
                os.chown(target, owner, group)

    def _check(
        self,
        stage: Path,
        manifest: Manifest,
        files: Mapping[str, bytes],
        group: int,
        stopped: Callable[[], bool],
    ) -> None:
        """Read everything back from where Asterisk will read it, then sync it."""
        staged = dict(self._walk(stage, group))
        if _content(stage / layout.MANIFEST) != files[layout.MANIFEST]:
            raise layout.not_as_sent(self._node, [f"{layout.MANIFEST} (changed)"])
        staged.pop(layout.MANIFEST)
        layout.check_stage(self._node, manifest, staged)
        _go_on(stopped)
        with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
            list(pool.map(_sync, [stage / path for path in files]))
        for folder in sorted(_folders(stage, files), reverse=True):
            _sync(folder)
        for folder in (self._config, self._root, self._root / layout.RELEASES):
            if not _readable(folder.stat(), group, 0o1):
                raise layout.unreadable(self._node, [str(folder)])

    def point(self, target: str | None) -> None:
        """The flip: one rename of the link, then a sync of the folder that holds it."""
        with self._translated("flip", self._root / layout.CURRENT):
            before = self.link()
            self._relink(target)
            try:
                _sync(self._root)
            except OSError:
                self._relink(before)
                raise

    def _relink(self, target: str | None) -> None:
        link = self._root / layout.CURRENT
        if target is None:
            link.unlink(missing_ok=True)
            return
        fresh = self._root / f"{layout.STAGE}link-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)

    def flip(self, revision: str) -> None:
        if self.file(revision, layout.MANIFEST) is None:
            raise layout.no_release(self._node, revision)
        self.point(f"{layout.RELEASES}/{revision}")

    def record(self, record: Record, drop: Collection[str], aside: Mapping[str, str]) -> None:
        audit = self._root / layout.AUDIT
        with self._translated("write the history", audit):
            fd = os.open(audit, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, FILE_MODE)
            with os.fdopen(fd, "ab", buffering=0):
                size = os.fstat(fd).st_size
                torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
                self._hand_over(fd, self._group())
                _write_all(fd, (b"\n" if torn else b"") + record.to_line().encode())
                os.fsync(fd)
        releases = self._root / layout.RELEASES
        with self._translated("tidy the releases", releases):
            for old, new in aside.items():
                if (releases / old).is_dir():
                    (releases / old).rename(releases / new)
            for name in drop:
                with suppress(FileNotFoundError):  # renamed first: half a release never has a release's name
                    (releases / name).rename(self._root / f"{layout.STAGE}drop-{name}")
            self._sweep()

    def write_config(self, name: str, content: bytes) -> None:
        """A link is followed: what it leads to is replaced, the link stays."""
        path = Path(os.path.realpath(self._config / name))
        fresh = path.with_name(f".{name}.voxtractl-{os.getpid()}")
        with self._translated("change Asterisk's configuration", path):
            uid, gid, mode = -1, self._group(), FILE_MODE
            with suppress(FileNotFoundError):
                status = path.stat()
                uid, gid, mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
            try:
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
                with os.fdopen(fd, "wb", buffering=0):
                    os.fchown(fd, uid, gid)
                    os.fchmod(fd, mode)
                    _write_all(fd, content)
                    os.fsync(fd)
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
            _sync(path.parent)

    def prepare(self) -> None:
        with self._translated("make the store folder", self._root):
            if self._root.is_dir():
                return
            self._root.mkdir(FOLDER_MODE)
            os.chown(self._root, -1, self._group())
            self._root.chmod(0o2750)
            _sync(self._root.parent)

    def facts(self) -> StoreFacts:
        group: tuple[int, str] | None = None
        with suppress(FileNotFoundError):
            number = self._config.stat().st_gid
            group = (number, _group_name(number))
        folder: tuple[int, int] | None = None
        free: int | None = None
        with suppress(FileNotFoundError):
            status, room = self._root.stat(), os.statvfs(self._root)
            folder, free = (status.st_mode, status.st_gid), room.f_bavail * room.f_frsize
        places = (self._root, self._root / layout.RELEASES)
        closed = [str(path) for path in places if path.exists() and not os.access(path, os.W_OK | os.X_OK)]
        return layout.facts_of(
            self._node,
            str(self._root),
            str(self._config),
            group=group,
            folder=folder,
            closed=closed[0] if closed else "",
            member=os.geteuid() == 0 or (group or (-1,))[0] in (os.getegid(), *os.getgroups()),
            free_bytes=free,
            clock=time.time(),
        )

    # --- small ones ---------------------------------------------------------------------------------------

    def link(self) -> str | None:
        """Target of ``current``; None when there is none; "" when something else has its name."""
        path = self._root / layout.CURRENT
        with self._translated("read the link", path):
            try:
                return str(path.readlink())
            except FileNotFoundError:
                return None
            except OSError as exc:
                if exc.errno == errno.EINVAL:
                    return ""
                raise

    def current(self) -> str | None:
        return layout.revision_of(self.link())

    def _group(self) -> int:
        return self._config.stat().st_gid

    @contextmanager
    def _translated(self, doing: str, path: Path) -> Iterator[None]:
        """OSError → StoreError, with the path and what to do about it."""
        try:
            yield
        except OSError as exc:
            place = exc.filename if isinstance(exc.filename, str) else str(path)
            raise layout.refused(
                self._node,
                doing,
                (exc.strerror or str(exc)).lower(),
                path=place,
                hint=layout.hint_for(exc.errno),
            ) from exc


def _go_on(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped


def _folders(stage: Path, files: Collection[str]) -> set[Path]:
    """The stage and every folder in it that ``files`` need."""
    return {stage / folder for path in files for folder in PurePath(path).parents}


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _content(path: Path) -> bytes | None:
    """A regular file's bytes; None when it is absent, a link, a device, or not ours to read."""
    try:
        # Without O_NONBLOCK a named pipe in a release would hold us up for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.ENXIO, errno.ENOTDIR):
            return None
        raise
    with os.fdopen(fd, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _readable(status: os.stat_result, group: int, bits: int) -> bool:
    return layout.group_may(status.st_mode, status.st_gid, group, bits)


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
