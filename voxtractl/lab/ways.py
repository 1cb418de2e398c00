"""Which Asterisk a lab uses: the decision, from facts about the machine; and those facts.

asterisk on PATH                       "path": that one
else root on Debian or Ubuntu          "root": one of our own, from Debian sid, in a chroot
else                                   LabError, saying what is missing
"""

import os
import platform
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from voxtractl.errors import LabError

__all__ = ["MachineFacts", "Report", "Way", "choose", "machine", "silent"]

Way = Literal["path", "root"]
Report = Callable[[str], None]  # takes one line of progress


def silent(_line: str) -> None:
    """The report of those who do not listen."""


_DEBIAN: Final = frozenset({"debian", "ubuntu"})


@dataclass(frozen=True, slots=True)
class MachineFacts:
    system: str  # as platform.system() says
    uid: int
    distributions: frozenset[str]  # ID and ID_LIKE of os-release(5)
    asterisk: str | None  # the binary on PATH
    account: tuple[int, int] | None  # uid and gid of the user asterisk, when there is one


def machine() -> MachineFacts:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    try:
        entry = pwd.getpwnam("asterisk")
    except KeyError:
        account = None
    else:
        account = (entry.pw_uid, entry.pw_gid)
    # Debian keeps it in /usr/sbin, which is not on every user's PATH.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which("asterisk", path=path)
    return MachineFacts(
        system=platform.system(),
        uid=os.geteuid(),
        distributions=frozenset(f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".split()),
        asterisk=str(Path(found).absolute()) if found else None,
        account=account,
    )


def choose(facts: MachineFacts) -> Way:
    """Raises LabError that names everything that is missing."""
    if facts.system != "Linux":
        raise LabError(
            f"a lab needs Linux, and this is {facts.system or 'an unknown system'}",
            hint="run it in a virtual machine or a privileged container with Debian",
        )
    if facts.asterisk is not None:
        return "path"
    missing = []
    if not facts.distributions & _DEBIAN:
        missing.append("this is neither Debian nor Ubuntu")
    if facts.uid != 0:
        missing.append("you are not root")
    if missing:
        raise LabError(
            f"there is no asterisk on PATH, and none can be built: {' and '.join(missing)}",
            hint="install Asterisk 20 or newer, or run this as root on Debian or Ubuntu",
        )
    return "root"
