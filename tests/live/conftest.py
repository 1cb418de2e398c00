"""Labs for live tests: one shared by the session, and own ones for tests that kill or restart theirs.

Every test in this folder is marked `live`. When no lab can be had, CI and VOXTRACTL_REQUIRE_LAB=1 fail the
test, and a developer's machine skips it with the reason. Tests leave a shared lab as they found it:
`lab.restore()`.
"""

import os
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from voxtractl.errors import LabError
from voxtractl.lab import Lab, names, purge, up

HERE = Path(__file__).parent

LabFactory = Callable[[], Lab]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("live")


def up_or_tell(name: str) -> Lab:
    """A running lab, or the end of the test that asked for it."""
    try:
        return up(name, report=print)
    except LabError as error:
        text = f"no lab: {error}; {error.hint}"
        if os.environ.get("CI") == "true" or os.environ.get("VOXTRACTL_REQUIRE_LAB") == "1":
            pytest.fail(text)
        pytest.skip(text)


def purge_labs_of_killed_sessions() -> None:
    for name in names():
        owner = re.fullmatch(r"test-(\d+)(-\d+)?", name)
        if owner and not Path("/proc", owner[1]).exists():
            purge(name)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The session's lab, up. Not for tests that end it."""
    purge_labs_of_killed_sessions()
    name = f"test-{os.getpid()}"
    try:
        yield up_or_tell(name)
    finally:
        purge(name)


@pytest.fixture
def own_lab() -> Iterator[LabFactory]:
    """Makes labs for one test alone, each with a name and ports of its own; all are deleted afterwards."""
    made: list[str] = []
    numbers = count(1)

    def make() -> Lab:
        name = f"test-{os.getpid()}-{next(numbers)}"
        made.append(name)
        return up_or_tell(name)

    try:
        yield make
    finally:
        for name in made:
            purge(name)
