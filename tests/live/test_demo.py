"""``voxtractl demo``, whole: what a newcomer sees first must be true."""

import json
import os
import subprocess
import sys
from pathlib import Path

from voxtractl.lab import Lab, names


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voxtractl", *words],
        env={**os.environ, "TMPDIR": str(folder), "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_shows_every_step_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    before = names()
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
    assert names() == before
    assert not list(tmp_path.glob("voxtractl-demo-*"))
    assert lab.alive


def test_with_json_it_is_one_document(lab: Lab, tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "-o", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert len(document["steps"]) == 9
    assert lab.alive
