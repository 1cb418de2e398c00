"""Which SSH server key belongs to which node: read, fetched and trusted here; no connection goes unchecked.

Two files are read: the operator's ``~/.ssh/known_hosts`` and voxtractl's own. Only the own one is written,
and only by ``trust()``, that is by ``voxtractl node trust`` with a fingerprint a person compared. asyncssh
refuses an unknown and a changed key with the same words (measured), so the two are told apart here.
"""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from voxtractl.deploy.store.base import Place, parse_url
from voxtractl.errors import HostKeyChanged, HostKeyUnknown, NodeUnreachable, StoreError
from voxtractl.model.node import Node

if TYPE_CHECKING:
    import asyncssh

__all__ = [
    "fetch_host_key",
    "known_hosts_file",
    "reason",
    "refused_key",
    "shown_key",
    "trust",
    "trusted",
    "unreachable",
]

FETCH_TIMEOUT: Final = 15.0  # seconds


def known_hosts_file() -> Path:
    """voxtractl's own file of trusted host keys: ``$XDG_CONFIG_HOME/voxtractl/known_hosts``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "voxtractl" / "known_hosts"


def trusted(own: Path | None = None) -> "asyncssh.SSHKnownHosts":
    """All keys that are trusted: of the operator's own SSH, and of ``own`` (known_hosts_file() when None)."""
    import asyncssh

    lines: list[str] = []
    for path in (Path.home() / ".ssh" / "known_hosts", own or known_hosts_file()):
        if path.is_file():
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        return asyncssh.import_known_hosts("\n".join(lines) + "\n")
    except ValueError:
        # One line that cannot be read must not take the others with it; ssh(1) skips such lines, too.
        return asyncssh.import_known_hosts("\n".join(line for line in lines if _is_entry(line)) + "\n")


def _is_entry(line: str) -> bool:
    import asyncssh

    try:
        asyncssh.import_known_hosts(line + "\n")
    except ValueError:
        return False
    return True


async def fetch_host_key(node: Node, *, timeout: float = FETCH_TIMEOUT) -> tuple[str, str]:
    """The key the node's SSH server shows now, as ``(key line, fingerprint)``; nothing is trusted by this.

    The line is ``ssh-ed25519 AAAA…``, the fingerprint ``SHA256:…``. Raises NodeUnreachable; StoreError for a
    node whose store is not reached over SSH.
    """
    place = parse_url(node.store)
    if place.scheme != "sftp":
        raise StoreError(
            f"the store of {node.name} is not reached over SSH",
            node=node.name,
            hint="only nodes whose store is sftp://… have a host key to trust",
        )
    key = await shown_key(node.name, place, timeout)
    return key.export_public_key("openssh").decode().strip(), key.get_fingerprint()


async def shown_key(node: str, place: Place, timeout: float) -> "asyncssh.SSHKey":
    """The server's key, from a handshake that ends before anything is sent to log in."""
    import asyncssh

    try:
        async with asyncio.timeout(timeout):
            key = await asyncssh.get_server_host_key(place.host, place.port)
    except TimeoutError as exc:
        raise unreachable(node, place, f"no answer within {timeout:.0f} s") from exc
    except (OSError, asyncssh.Error) as exc:
        raise unreachable(node, place, reason(exc)) from exc
    if key is None:
        raise unreachable(node, place, "its SSH server shows no key")
    return key


async def refused_key(
    node: str, place: Place, own: Path | None, timeout: float, why: str
) -> HostKeyUnknown | HostKeyChanged | NodeUnreachable:
    """Why a handshake failed: a key never seen, another one than trusted, or ``why`` when neither."""
    import asyncssh

    key = await shown_key(node, place, timeout)
    fingerprint = key.get_fingerprint()
    details = {"host": place.host, "port": place.port, "fingerprint": fingerprint}
    found = asyncssh.match_known_hosts(trusted(own), place.host, "", place.port)
    known, revoked = [*found[0], *found[1]], found[2]
    if key in known and key not in revoked:
        return unreachable(node, place, why)
    if not known and key not in revoked:
        return HostKeyUnknown(
            f"the SSH key of {node} ({place.host}:{place.port}) was never trusted here: {fingerprint}",
            node=node,
            hint=(
                f"compare it with `ssh-keygen -lf` on {node} itself, then run:"
                f" voxtractl node trust {node} --fingerprint {fingerprint}"
            ),
            details=details,
        )
    before = ", ".join(sorted(k.get_fingerprint() for k in known)) or "none, and it is revoked"
    return _changed(node, place.host, place.port, before, fingerprint)


def trust(known_hosts: Path, host: str, port: int, key_line: str, *, node: str | None = None) -> bool:
    """Add ``key_line`` for the host to ``known_hosts``; False when it was there already.

    Raises HostKeyChanged when another key of this host is trusted, there or in ``~/.ssh/known_hosts``: no
    flag overrides that, a person removes the old line first. The file is replaced in one step, under a lock.
    """
    import asyncssh

    name = node or host
    key = asyncssh.import_public_key(key_line)
    known_hosts.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (known_hosts.parent / ".known_hosts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = asyncssh.match_known_hosts(trusted(known_hosts), host, "", port)[0]
        if key in keys:
            return False
        if keys:
            before = ", ".join(sorted(k.get_fingerprint() for k in keys))
            raise _changed(name, host, port, before, key.get_fingerprint())
        text = known_hosts.read_text(encoding="utf-8") if known_hosts.is_file() else ""
        if text and not text.endswith("\n"):
            text += "\n"
        algorithm, blob = key.export_public_key("openssh").decode().split()[:2]
        pattern = host if port == 22 else f"[{host}]:{port}"
        fresh = known_hosts.with_name(f".known_hosts-{os.getpid()}")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(f"{text}{pattern} {algorithm} {blob}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(known_hosts)
    return True


def _changed(node: str, host: str, port: int, before: str, now: str) -> HostKeyChanged:
    return HostKeyChanged(
        f"the SSH key of {node} ({host}:{port}) changed: trusted is {before}, shown is {now}",
        node=node,
        hint=(
            "somebody may stand in between. When the server was really rebuilt, remove its old line from"
            f" {known_hosts_file()} and ~/.ssh/known_hosts by hand, then: voxtractl node trust {node}"
        ),
        details={"host": host, "port": port, "fingerprint": now, "trusted": before},
    )


def unreachable(node: str, place: Place, why: str) -> NodeUnreachable:
    return NodeUnreachable(
        f"{node} cannot be reached over SSH at {place.host}:{place.port}: {why}",
        node=node,
        hint=f"try: ssh -p {place.port} {place.user + '@' if place.user else ''}{place.host}",
        details={"host": place.host, "port": place.port},
    )


def reason(exc: BaseException) -> str:
    """What went wrong, in the few words of the system."""
    if isinstance(exc, OSError) and exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno).lower()  # asyncio's own text repeats the address instead
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return str(exc) or type(exc).__name__
