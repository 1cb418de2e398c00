"""What the service manager is told, systemd or another that knows its way: sd_notify(3), sd-daemon(3).

    NOTIFY_SOCKET   where it listens; nothing is told without it
    WATCHDOG_USEC   it ends us when it does not hear of us for so long; for the process WATCHDOG_PID, if any
    JOURNAL_STREAM  what its journal reads, by device and inode; a number before a line is its level there

A process that stands still may hold up Asterisk (docs/decisions/0007), and does not know it. So somebody else
has to end it.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Final, TextIO

__all__ = ["ServiceManager", "journal_reads", "levelled"]

log = logging.getLogger(__name__)

STATUS_MAX: Final = 200  # characters of the line that `systemctl status` shows


def journal_reads(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    if "JOURNAL_STREAM" not in environ:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is no file, or closed
        return False
    return environ["JOURNAL_STREAM"] == f"{found.st_dev}:{found.st_ino}"


def levelled(text: str, level: int) -> str:
    """The text for the journal, with syslog's number of its level (3 error … 7 debug) before each line."""
    return "\n".join(f"<{level}>{line}" for line in text.split("\n"))


class ServiceManager:
    """The one of this environment. What it cannot be told goes to the log: it is no reason to end."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        place = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{place[1:]}" if place.startswith("@") else place
        if not place.startswith(("/", "@")):  # a vsock of a virtual machine is systemd's own matter
            self._address = ""
        self._every = _watchdog(environ) / 2 if self._address else 0.0
        self._status: str | None = None  # what it was told that is served

    def ready(self, sentence: str) -> None:
        """Calls are served, from now on or again; ``sentence`` says which."""
        self._status = sentence
        self._tell("READY=1", _status(sentence))

    def reloading(self) -> None:
        """``ready`` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._status = None
        self._tell("STOPPING=1", "STATUS=draining")

    async def live(self, sentence: Callable[[], str]) -> None:
        """Tell that the event loop turns, twice in the time of the watchdog, until it is cancelled; and what
        is served when that has changed."""
        while self._every:
            words = ["WATCHDOG=1"]
            if self._status is not None and (said := sentence()) != self._status:
                self._status = said
                words.append(_status(said))
            self._tell(*words)
            await asyncio.sleep(self._every)

    def _tell(self, *words: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as way:
                way.sendto("\n".join(words).encode(), self._address)
        except OSError as exc:
            log.debug("the service manager was not told %s: %s", words[0], exc)


def _status(sentence: str) -> str:
    return f"STATUS={' '.join(sentence.split())[:STATUS_MAX]}"


def _watchdog(environ: Mapping[str, str]) -> float:
    """Its seconds; 0 when there is none for this process."""
    pid, microseconds = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if pid not in {"", str(os.getpid())} or not microseconds.isdecimal():
        return 0.0
    return int(microseconds) / 1e6
