"""Opens the SSH connection to a node, and says in a node's own errors why it did not.

Only keys log in (an identity file, the agent, or the defaults of ``~/.ssh``); nothing is ever asked for at
a prompt, and no connection is made to a server whose key is not trusted.
"""

import asyncio
import socket
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from voxtractl.deploy.store.base import Place
from voxtractl.deploy.store.hostkeys import reason, refused_key, trusted, unreachable
from voxtractl.errors import NodeAuthFailed
from voxtractl.model.node import Node

if TYPE_CHECKING:
    import asyncssh

__all__ = ["acknowledge_at_once", "connect", "lost", "opened"]

T = TypeVar("T")

ALIVE: Final = 15.0  # seconds between two keep-alives; three unanswered ones end the connection


async def connect(
    node: Node, place: Place, *, known_hosts: Path | None, timeout: float
) -> "asyncssh.SSHClientConnection":
    """A connection, logged in. Raises HostKeyUnknown, HostKeyChanged, NodeAuthFailed, NodeUnreachable."""
    import asyncssh

    options: dict[str, Any] = {"preferred_auth": "publickey", "keepalive_interval": ALIVE}
    if place.user is not None:
        options["username"] = place.user
    if node.identity is not None:
        options["client_keys"] = [str(_identity(node))]
    try:
        async with asyncio.timeout(timeout):
            return await asyncssh.connect(place.host, place.port, known_hosts=trusted(known_hosts), **options)
    except TimeoutError as exc:
        raise unreachable(node.name, place, f"no answer within {timeout:.0f} s") from exc
    except (
        asyncssh.HostKeyNotVerifiable,
        asyncssh.KeyExchangeFailed,
        asyncssh.ConnectionLost,
        ConnectionResetError,  # what is left to see when the server has no key of a kind we trust
    ) as exc:
        raise await refused_key(node.name, place, known_hosts, timeout, reason(exc)) from exc
    except asyncssh.PermissionDenied as exc:
        raise _refused_login(node, place, "the server accepts none of our keys") from exc
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        why = f"the key file cannot be used: {reason(exc)}"
        if "passphrase" in why.lower():
            why = "the key has a passphrase; add it to your ssh-agent and name no identity"
        raise _refused_login(node, place, why) from exc
    except asyncssh.Error as exc:
        raise unreachable(node.name, place, reason(exc)) from exc
    except OSError as exc:
        if node.identity is not None and exc.filename == str(_identity(node)):
            raise _refused_login(node, place, f"{exc.filename}: {reason(exc)}") from exc
        raise unreachable(node.name, place, reason(exc)) from exc


def lost(node: str, place: Place, exc: BaseException) -> Exception:
    """The connection broke while it was in use."""
    return unreachable(node, place, f"the connection was lost ({reason(exc)})")


async def opened(connection: "asyncssh.SSHClientConnection", channel: Awaitable[T]) -> T:
    """The first channel of a connection, without the 45 ms it takes otherwise (measured on loopback).

    sshd announces its host keys right after the login and leaves Nagle's algorithm on: the answer to our
    channel request waits there until we acknowledge that announcement, and our kernel delays that by 40 ms.
    """
    task = asyncio.ensure_future(channel)
    for _ in range(3):  # the request is on its way only after the task's first steps
        await asyncio.sleep(0)
        acknowledge_at_once(connection)
    return await task


def acknowledge_at_once(connection: "asyncssh.SSHClientConnection") -> None:
    """Tell the kernel not to delay the next acknowledgement; it forgets that whenever we send."""
    transport = connection.get_extra_info("socket")
    if transport is not None and hasattr(socket, "TCP_QUICKACK"):  # Linux only
        with suppress(OSError):
            transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _identity(node: Node) -> Path:
    path = Path(node.identity or "").expanduser()
    return path if path.is_absolute() else Path(node.file).parent / path


def _refused_login(node: Node, place: Place, why: str) -> NodeAuthFailed:
    user = place.user or "the current user"
    return NodeAuthFailed(
        f"{user} cannot log in to {node.name} over SSH ({place.host}:{place.port}): {why}",
        node=node.name,
        hint=(
            f"put the public key into ~{place.user or ''}/.ssh/authorized_keys on {node.name},"
            f" or name the right key: nodes.{node.name}.identity"
        ),
        details={"host": place.host, "port": place.port, "user": place.user},
    )
