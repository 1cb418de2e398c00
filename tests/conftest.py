"""Fixtures any test may ask for; what is costly starts once a session, and only when it is asked for."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from voxtractl.runtime.event_loop import new_event_loop

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from tests.tools.sshd import Sshd

# Rooms, by where their paths begin: what reads and writes sockets of its own, and what else the runtime runs.
BOTH_LOOPS: Final = ("unit/audio/", "unit/ari/test_stream", "live/test_audio_legs", "live/test_ari_stream")
RUNTIME: Final = ("unit/runtime/", "live/test_calls_", "live/test_speech", "live/test_talk", "live/test_rtp")

# A slow machine is no fault of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


# It would hide what a process of ours leaves in its buffers.
os.environ.pop("PYTHONUNBUFFERED", None)

# nohup and the & of a script let what they start ignore these, and processes of ours take that over.
for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Sshd]":
    """A private OpenSSH server on loopback."""
    from tests.tools.sshd import start_sshd

    server = start_sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


def pytest_asyncio_loop_factories(item: pytest.Item) -> "Mapping[str, Callable[[], AbstractEventLoop]]":
    """The loops that run what is tested: the runtime's, asyncio's for commands and tenants, or both."""
    ours, theirs = {"uvloop": new_event_loop}, {"asyncio": asyncio.new_event_loop}
    place = item.path.relative_to(Path(__file__).parent).as_posix()
    if place.startswith(BOTH_LOOPS):
        return ours | theirs
    return ours if place.startswith(RUNTIME) else theirs
