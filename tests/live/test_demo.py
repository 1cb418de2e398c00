"""``voxtractl demo``, whole: what a newcomer sees first must be true."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from voxtractl.lab import Lab, names


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voxtractl", *words],
        env={**os.environ, "TMPDIR": str(folder), "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
    )


def demos() -> list[str]:
    """The labs that demos have; other test sessions may have theirs, which come and go."""
    return [name for name in names() if name.startswith("demo-")]


def test_it_shows_every_step_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    before = demos()
    done = run(tmp_path, "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout + done.stderr
    for words in (
        "$ voxtractl node init lab --yes",
        "$ voxtractl dialplan push --yes",
        "proven: 3 DIDs live",
        "Asterisk refused to load extensions and kept what it had",
        "(exit code 8, as it should be)",
        "3 of 3 still live",
        "All of it on a real Asterisk",
    ):
        assert words in shown
    assert "only-a-demo" not in shown
    assert demos() == before
    assert not list(tmp_path.glob("voxtractl-demo-*"))
    assert lab.alive


def test_with_json_it_is_one_document(lab: Lab, tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "-o", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert len(document["steps"]) == 9
    assert lab.alive


@pytest.mark.parametrize("line", ["A private Asterisk", "$ voxtractl dialplan push"])
def test_sigterm_leaves_nothing_either(line: str, lab: Lab, tmp_path: Path) -> None:
    before = demos()
    demo = subprocess.Popen(
        [sys.executable, "-m", "voxtractl", "demo", "-o", "json"],
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stderr is not None
    for shown in demo.stderr:
        if line in shown:
            demo.send_signal(signal.SIGTERM)
            break
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(out)["error"]["id"] == "interrupted"
    assert demos() == before
    assert not list(tmp_path.glob("voxtractl-demo-*"))
