"""Connections of ours that a forked child must not have.

A child that a handler forks (a worker of a pool, before Python 3.14) has all that is open, and outlives us if
we are killed. Asterisk would see an event connection that is up, and go on to give calls to nobody; and who
starts us again would find our ports taken.
"""

import os
from contextlib import suppress
from typing import Any, Final

__all__ = ["ours"]

_OURS: Final[dict[int, int]] = {}  # descriptor → inode; closed ones stay until their number is ours again


def ours(socket: Any) -> None:
    """A socket of ours, asyncio's or another; None is none."""
    if socket is not None and (fd := socket.fileno()) >= 0:
        _OURS[fd] = os.fstat(fd).st_ino


def _let_go() -> None:
    """In the child. Their numbers stay taken: objects that came along may close them yet."""
    with suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd, inode in _OURS.items():
            with suppress(OSError):
                if os.fstat(fd).st_ino == inode:
                    os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)
    _OURS.clear()


os.register_at_fork(after_in_child=_let_go)
