"""Labs for live tests: one shared by the session, and own ones for tests that kill or restart theirs.

Every test in this folder is marked `live`. When no lab can be had, CI and VOXTRACTL_REQUIRE_LAB=1 fail the
test, and a developer's machine skips it with the reason. Tests leave a shared lab as they found it:
`lab.restore()`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from voxtractl.ari.release import MEDIA_WEBSOCKET, Feature, Release
from voxtractl.errors import LabError
from voxtractl.lab import Lab, names, purge, up

HERE = Path(__file__).parent

LabFactory = Callable[[], Lab]
NodeDocument = Callable[..., Path]  # (tenants_toml="", *, lab=…, init=True) → path of tenants.toml


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


def release(lab: Lab) -> Release:
    found = Release.of(lab.version)
    assert found is not None
    return found


def needs(lab: Lab, feature: Feature) -> None:
    """Skip the test on an Asterisk that has not got it yet."""
    if not release(lab).has(feature):
        pytest.skip(f"Asterisk {lab.version} has no {feature.what}")


def needs_media(lab: Lab, media: str) -> None:
    """Skip the test on an Asterisk that has not got this way for sound yet."""
    if media == "websocket":
        needs(lab, MEDIA_WEBSOCKET)


def needs_an_account_of_its_own(lab: Lab) -> None:
    """Skip a test of what Asterisk may not read where it runs as root and reads everything."""
    if lab.owner[0] == 0:
        pytest.skip("the lab's Asterisk runs as root")


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


@pytest.fixture
def node_document(lab: Lab, tmp_path: Path) -> Iterator[NodeDocument]:
    """Makes a document whose only node, ``lab``, is a lab, and prepares it; the shared lab is restored after.

    In a process of its own, so that async tests can use it as well.
    """
    shared = lab

    def make(tenants_toml: str = "", *, lab: Lab = shared, init: bool = True) -> Path:
        path = tmp_path / "tenants.toml"
        path.write_text(
            f"""\
[nodes.lab]
ari = "{lab.ari_url}"
ari_user = "{lab.ari_user}"
ari_password_file = "{lab.ari_password_file}"
store = "local:{lab.store_dir}"

{tenants_toml}"""
        )
        if init:
            words = ["--config", str(path), "node", "init", "--yes"]
            done = subprocess.run(
                [sys.executable, "-m", "voxtractl", *words], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return path

    yield make
    shared.restore()
