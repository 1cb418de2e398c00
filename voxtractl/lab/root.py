"""A small Debian sid with Asterisk in a folder of its own; built once, used by all labs of a home.

The folder appears by one rename when it is complete, so there is never half a root. The caller holds the
home's lock. Nothing is mounted where others could see it: the build runs in a mount namespace of its own,
as Asterisk does later, and the kernel takes the mounts away with the last process inside, however it ended.
"""

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from voxtractl.errors import LabError
from voxtractl.lab.disk import claim, is_claimed, mark, remove_tree, write
from voxtractl.lab.ways import Report, silent

__all__ = ["LABS", "account", "build", "enter"]

LABS: Final = "var/lab"  # where the instances lie, below the root

_PRIVATE: Final = ("unshare", "--mount", "--propagation", "private")
_MMDEBSTRAP: Final = (
    "mmdebstrap",
    "--variant=apt",
    "--mode=root",
    "--include=asterisk",
    # The root is built from what the mirror has; a mirror that lags by a day must not end it.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=APT::Install-Recommends "false"',
    "sid",
)
_KEPT: Final = 12  # lines of a failed program that are shown

# exec all the way: what unshare became is Asterisk itself, one pid, and the last holder of the mounts.
# --pid and --kill-child would tie its life to a parent, and a lab outlives the command that started it.
_ENTER: Final = (
    'mount --rbind /dev "$1/dev" && mount --rbind /proc "$1/proc" && '
    'root=$1 && shift && exec chroot "$root" "$@"'
)


_PROGRAMS: Final = ("mmdebstrap", "mount")  # and the names of their packages; a container may have no mount


def build(root: Path, report: Report) -> None:
    """Build ``root`` unless it is there. About 25 s and 340 MB. Raises LabError."""
    for stale in root.parent.glob(f"{root.name}.partial-*"):
        remove_tree(stale, stale)
    if root.exists():
        if not is_claimed(root):
            raise LabError(
                f"{root} exists and was not made by a lab",
                hint="set VOXTRACTL_LAB_HOME to a folder for labs only",
            )
        _name_machine(root)
        return
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        report(f"installing {' and '.join(missing)} with apt-get")
        _install(missing)
    report(f"building Debian sid with Asterisk in {root} (once; about 30 s, 340 MB)")
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    claim(partial)
    tree = partial / "tree"
    try:
        _run((*_MMDEBSTRAP, str(tree)), report, before=_PRIVATE)
        if not (tree / "usr/sbin/asterisk").exists():
            raise LabError("the root was built without Asterisk", where=str(tree))
        (tree / LABS).mkdir()
        # Asterisk's user must pass, whatever our umask is.
        (tree / LABS).chmod(0o711)
        tree.chmod(0o755)
        _name_machine(tree)
        mark(tree)
        tree.rename(root)
    finally:
        remove_tree(partial, partial)


def enter(root: Path) -> tuple[str, ...]:
    """The words before a program that make it run inside ``root``, with /dev and /proc of its own."""
    return (*_PRIVATE, "sh", "-c", _ENTER, "sh", str(root))


def account(root: Path) -> tuple[int, int]:
    """uid and gid of Asterisk's user inside the root."""
    for line in (root / "etc/passwd").read_text(encoding="utf-8").splitlines():
        fields = line.split(":")
        if fields[0] == "asterisk":
            return int(fields[2]), int(fields[3])
    raise LabError(
        "the root has no user asterisk",
        where=str(root),
        hint="build it anew: voxtractl lab down --purge --all",
    )


def _name_machine(root: Path) -> None:
    """Let the machine's name be found in a file: Asterisk looks it up for each SIP call whose RTP is bound to
    no address (``ast_find_ourip``), and a name server that does not answer held up a call for 5 s."""
    path, text = root / "etc/hosts", f"127.0.0.1 localhost {platform.node()}\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write(path, text, mode=0o644)


def _install(packages: Sequence[str]) -> None:
    with contextlib.suppress(LabError):
        # A broken package source of somebody else must not stop us; the next step tells if it does.
        _run(("apt-get", "update"), silent)
    words = ("apt-get", "install", "--yes", "--no-install-recommends")
    # Ubuntu does not have Debian's keys otherwise.
    _run((*words, *packages, "debian-archive-keyring"), silent)


def _run(command: Sequence[str], report: Report, before: Sequence[str] = ()) -> None:
    """Run a long program and pass on what it says of its progress; ``before`` is how it is run."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    last: list[str] = []
    try:
        program = subprocess.Popen(
            [*before, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
    except OSError as exc:
        raise LabError(
            f"cannot run {command[0]}: {exc.strerror}", hint="the lab needs apt-get and unshare"
        ) from exc
    with program:
        assert program.stdout is not None  # noqa: S101  for mypy: PIPE was asked for
        try:
            for line in program.stdout:
                last = [*last[1 - _KEPT :], line.strip()]
                if line.startswith("I: "):
                    report(line[3:].strip())
        except BaseException:
            # Ctrl-C: the program must not go on writing into a folder that is being deleted.
            program.terminate()
            raise
    if program.returncode != 0:
        raise LabError(
            f"{command[0]} ended with exit code {program.returncode}: {last[-1] if last else 'no output'}",
            where="building the lab's root",
            hint="it needs a Debian mirror over http and the right to mount; see details",
            details={"output": last},
        )
