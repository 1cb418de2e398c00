"""What a service manager hears, at a socket as systemd has it. The process itself: tests/live/test_run.py."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxtractl.runtime.service import ServiceManager


class Manager:
    def __init__(self, place: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(place.replace("@", "\0"))
        self.socket.settimeout(10)
        self.environ = {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture(params=["/", "@"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "n") if request.param == "/" else f"@voxtractl-test-{os.getpid()}")
    yield manager
    manager.socket.close()


def test_it_is_told_what_the_process_does(manager: Manager) -> None:
    told = ServiceManager(manager.environ)
    told.ready("serving 2 of 2\n tenants")
    assert manager.heard() == ["READY=1", "STATUS=serving 2 of 2 tenants"]
    told.reloading()
    word, when = manager.heard()
    assert (word, when.partition("=")[0], when.partition("=")[2].isdecimal()) == (
        "RELOADING=1",
        "MONOTONIC_USEC",
        True,
    )
    told.stopping()
    assert manager.heard() == ["STOPPING=1", "STATUS=draining"]


async def test_it_hears_of_a_loop_that_turns_again_and_again(manager: Manager) -> None:
    living = asyncio.create_task(ServiceManager(manager.environ).live(lambda: "serving"))
    for _ in range(3):
        assert await asyncio.to_thread(manager.heard) == ["WATCHDOG=1"]
    living.cancel()


async def test_it_hears_what_is_served_when_that_changes(manager: Manager) -> None:
    told, served = ServiceManager(manager.environ), ["serving 2"]
    told.ready(served[0])
    assert manager.heard() == ["READY=1", "STATUS=serving 2"]
    living = asyncio.create_task(told.live(lambda: served[0]))
    assert await asyncio.to_thread(manager.heard) == ["WATCHDOG=1"]
    served[0] = "serving 3"
    while (heard := await asyncio.to_thread(manager.heard)) == ["WATCHDOG=1"]:
        pass
    assert heard == ["WATCHDOG=1", "STATUS=serving 3"]
    told.stopping()
    served[0] = "serving 4"
    while (heard := await asyncio.to_thread(manager.heard)) != ["STOPPING=1", "STATUS=draining"]:
        assert heard == ["WATCHDOG=1"]
    for _ in range(2):
        assert await asyncio.to_thread(manager.heard) == ["WATCHDOG=1"]
    living.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "20000"},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "20000"},
    ],
)
async def test_without_one_for_us_nothing_is_told_and_nothing_fails(environ: dict[str, str]) -> None:
    told = ServiceManager(environ)
    told.ready("serving")
    told.stopping()
    await asyncio.wait_for(told.live(lambda: "serving"), 10)  # ends: there is no watchdog
