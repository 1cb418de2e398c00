"""Names and places of labs; making one is a live test."""

import os
import pwd
from pathlib import Path

import pytest

from voxtractl.errors import LabError, UsageFault
from voxtractl.lab import default_home, find, names, purge, remove_root, up


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "UP", "a b", "root", "lock", "x" * 32, "é", "a\n"])
def test_a_name_that_could_leave_the_home_is_refused_everywhere(name: str, tmp_path: Path) -> None:
    for door in (up, find, purge):
        with pytest.raises(UsageFault, match="cannot be a lab's name"):
            door(name, tmp_path)
    assert not any(path.name != "lock" for path in tmp_path.iterdir())


def test_where_nothing_is_nothing_is_found_and_nothing_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert find("lab", home) is None
    assert names(home) == []
    purge("lab", home)
    remove_root(home)
    assert not home.exists()


def test_what_no_lab_made_is_not_purged_even_if_it_bears_the_name(tmp_path: Path) -> None:
    for name in ("projects", "root"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with pytest.raises(LabError, match="was not made by a lab"):
        purge("projects", tmp_path)
    with pytest.raises(LabError, match="was not made by a lab"):
        remove_root(tmp_path)
    assert (tmp_path / "projects/file").exists()
    assert (tmp_path / "root/file").exists()


def test_the_home_is_the_variable_else_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOXTRACTL_LAB_HOME", str(tmp_path / "own"))
    assert default_home() == tmp_path / "own"
    monkeypatch.delenv("VOXTRACTL_LAB_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_home() == tmp_path / "voxtractl" / "lab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_home() == tmp_path / ".cache" / "voxtractl" / "lab"


def test_a_home_that_cannot_be_made_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot make") as caught:
        up("lab", tmp_path / "file" / "home")
    assert "VOXTRACTL_LAB_HOME" in str(caught.value.hint)


def fake_asterisk(folder: Path, text: str) -> None:
    folder.mkdir()
    binary = folder / "asterisk"
    binary.write_text(text)
    binary.chmod(0o755)


def test_something_on_path_that_is_no_asterisk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_asterisk(tmp_path / "bin", "#!/bin/sh\necho I am a star\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(pwd, "getpwnam", {}.__getitem__)  # pytest's folder is closed to the user asterisk
    with pytest.raises(LabError, match="did not tell its version"):
        up("lab", tmp_path / "home")
    assert names(tmp_path / "home") == []


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("x" * 100, "too long for Asterisk's control socket"), ("a;b", "cannot be written")],
)
def test_a_home_asterisk_cannot_use_is_refused_before_anything_is_made(
    folder: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_asterisk(tmp_path / "bin", "#!/bin/sh\necho Asterisk 22.1.0\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(LabError, match=reason) as caught:
        up("lab", tmp_path / folder)
    assert "VOXTRACTL_LAB_HOME" in str(caught.value.hint)
    assert [path.name for path in (tmp_path / folder).iterdir()] == ["lock"]
