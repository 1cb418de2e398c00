"""The doors of the lab: make, find and delete labs by name."""

import dataclasses
import os
import re
import secrets
import stat
import subprocess
from pathlib import Path
from typing import Final

from voxtractl.errors import LabError, UsageFault
from voxtractl.lab import root
from voxtractl.lab.disk import is_claimed, locked, read_json, read_secret, remove_tree
from voxtractl.lab.instance import RECORD, Lab, PortsTaken, environment, fill, kill, start
from voxtractl.lab.ports import Ports, choose_ports
from voxtractl.lab.ways import MachineFacts, Report, Way, choose, machine, silent
from voxtractl.settings import Secret

__all__ = ["default_home", "find", "names", "purge", "remove_root", "up"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_RESERVED: Final = frozenset({"root", "lock"})
_STARTS: Final = 5  # tries when somebody takes the ports first
_SOCKET_LIMIT: Final = 107  # bytes of a Unix socket's path (unix(7): 108 with the ending NUL)


def default_home() -> Path:
    """VOXTRACTL_LAB_HOME, else voxtractl/lab in the user's cache."""
    given = os.environ.get("VOXTRACTL_LAB_HOME")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voxtractl" / "lab"


def up(name: str = "lab", home: Path | None = None, report: Report = silent) -> Lab:
    """A running lab: the one of this name, started if need be, else a new one. Raises LabError.

    Every function here raises UsageFault for what cannot be a lab's name.
    """
    home = _home(home)
    try:
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as exc:
        raise LabError(
            f"cannot make {home}: {exc.strerror}", hint="set VOXTRACTL_LAB_HOME to a folder of your own"
        ) from exc
    with locked(home, report):
        lab = find(name, home)
        if lab is not None and lab.alive:
            lab.wait_ready()
            report(f"lab {name} is already up")
            return lab
        if lab is not None:
            start(lab)
            report(f"lab {name} is up again, with the files it had")
            return lab
        return _make(name, home, machine(), report)


def find(name: str = "lab", home: Path | None = None) -> Lab | None:
    """The lab of this name, running or not; None when there is none, or its files are gone."""
    _check_name(name)
    home = _home(home)
    record = read_json(home / name / RECORD)
    if record is None or not (Path(record["instance"]) / "etc").is_dir():
        return None
    record["ports"] = Ports(**record["ports"])
    for key in ("home", "instance"):
        record[key] = Path(record[key])
    for key in ("program", "daemon", "owner"):
        record[key] = tuple(record[key])
    return Lab(
        **record,
        ari_password=read_secret(home / name / "ari-password"),
        reader_password=read_secret(home / name / "reader-password"),
    )


def names(home: Path | None = None) -> list[str]:
    """The labs of a home, running or not."""
    return sorted(path.parent.name for path in _home(home).glob(f"*/{RECORD}"))


def purge(name: str = "lab", home: Path | None = None) -> None:
    """End a lab and delete all it has. Harmless when there is none."""
    _check_name(name)
    home = _home(home)
    if not home.is_dir():
        return
    with locked(home, silent):
        if is_claimed(home / name):
            # Its files go anyway, and asking takes half a second.
            kill(home / name)
        for folder in (home / "root" / root.LABS / name, home / name):
            remove_tree(folder, folder)


def remove_root(home: Path | None = None) -> None:
    """Delete the Debian the labs of this home run in; only when no lab is left. Harmless without one."""
    home = _home(home)
    if not home.is_dir():
        return
    with locked(home, silent):
        left = [name for name in names(home) if (lab := find(name, home)) is not None and lab.how == "root"]
        if left:
            raise LabError(
                f"the root is used by {', '.join(left)}",
                where=str(home),
                hint="voxtractl lab down --purge --all",
            )
        remove_tree(home / "root", home / "root")


def _make(name: str, home: Path, facts: MachineFacts, report: Report) -> Lab:
    way = choose(facts)
    if way == "path":
        draft = _on_path(name, home, facts)
        report(f"using {facts.asterisk}, Asterisk {draft.version}")
    else:
        root.build(home / "root", report)
        draft = _in_root(name, home)
        report(f"using Asterisk {draft.version} in {home / 'root'}")
    for attempt in range(1, _STARTS + 1):
        lab = dataclasses.replace(draft, ports=choose_ports())
        try:
            fill(lab)
        except OSError as exc:
            raise LabError(f"cannot write {exc.filename}: {exc.strerror}", where=f"lab {name}") from exc
        try:
            start(lab)
        except PortsTaken as taken:
            if attempt == _STARTS:
                raise
            report(f"{taken}; trying others")
            continue
        report(f"lab {name} is up: ARI {lab.ari_url}, SIP 127.0.0.1:{lab.sip_port}")
        return lab
    raise AssertionError("unreachable: the last attempt returns or raises")


def _on_path(name: str, home: Path, facts: MachineFacts) -> Lab:
    asterisk = facts.asterisk
    assert asterisk is not None  # noqa: S101  for mypy: choose() saw it
    instance = home / name
    inside = str(instance)
    if not inside.isprintable() or set(inside) & set(";\\[]"):
        raise LabError(
            f"{inside} cannot be written into Asterisk's configuration",
            hint="set VOXTRACTL_LAB_HOME to a folder with plain letters in its path",
        )
    if len(os.fsencode(f"{inside}/run/asterisk.ctl")) > _SOCKET_LIMIT:
        raise LabError(
            f"{inside} is too long for Asterisk's control socket",
            hint=f"set VOXTRACTL_LAB_HOME to a shorter one (the socket's path has {_SOCKET_LIMIT} bytes)",
        )
    owner = os.geteuid(), os.getegid()
    daemon: tuple[str, ...] = (asterisk,)
    if facts.uid == 0 and facts.account is not None:
        owner = facts.account
        daemon = (asterisk, "-U", "asterisk", "-G", "asterisk")
        closed = _closed_to(owner, home)
        if closed is not None:
            raise LabError(
                f"the user asterisk may not enter {closed}, where the lab would be",
                hint="set VOXTRACTL_LAB_HOME to a folder it may enter, such as /var/tmp/voxtractl-lab",
            )
    return _draft(name, home, "path", instance, inside, (asterisk,), daemon, owner)


def _in_root(name: str, home: Path) -> Lab:
    tree = home / "root"
    return _draft(
        name,
        home,
        "root",
        tree / root.LABS / name,
        f"/{root.LABS}/{name}",
        ("chroot", str(tree), "asterisk"),
        (*root.enter(tree), "asterisk", "-U", "asterisk", "-G", "asterisk"),
        root.account(tree),
    )


def _draft(
    name: str,
    home: Path,
    how: Way,
    instance: Path,
    inside: str,
    program: tuple[str, ...],
    daemon: tuple[str, ...],
    owner: tuple[int, int],
) -> Lab:
    """A lab without ports yet; its passwords are made here."""
    return Lab(
        name=name,
        home=home,
        how=how,
        version=_version(program),
        ports=Ports(0, 0, 0, 0),
        instance=instance,
        inside=inside,
        program=program,
        daemon=daemon,
        owner=owner,
        ari_password=Secret(secrets.token_urlsafe(24)),
        reader_password=Secret(secrets.token_urlsafe(24)),
    )


def _version(program: tuple[str, ...]) -> str:
    """The number in ``Asterisk 22.10.1~dfsg+…``."""
    try:
        done = subprocess.run(
            [*program, "-V"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment("/"),
            cwd="/",
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as exc:
        raise LabError(f"cannot run {program[0]}: {exc.strerror}", hint="check the binary") from exc
    match = re.search(r"Asterisk\s+(?:GIT-|certified[/-])?(\d[\w.]*(?:-\w+)?)", done.stdout)
    if match is None:
        raise LabError(
            f"{' '.join(program)} -V did not tell its version: {(done.stdout + done.stderr).strip()[:200]!r}",
            hint="is it Asterisk? set PATH so that another is found, or none",
        )
    return match[1]


def _closed_to(owner: tuple[int, int], folder: Path) -> Path | None:
    """The first folder on the way to ``folder`` that this user may not enter."""
    uid, gid = owner
    for step in [*reversed(folder.resolve().parents), folder.resolve()]:
        facts = step.stat()
        bit = stat.S_IXUSR if facts.st_uid == uid else stat.S_IXGRP if facts.st_gid == gid else stat.S_IXOTH
        if not facts.st_mode & bit:
            return step
    return None


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UsageFault(
            f"{name!r} cannot be a lab's name",
            hint="use up to 31 of a-z, 0-9 and -, not root and not lock, such as: lab",
        )


def _home(home: Path | None) -> Path:
    return (home or default_home()).absolute()
