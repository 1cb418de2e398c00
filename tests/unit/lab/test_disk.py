"""Files, trees and the lock of a lab's home.

No test here hands `remove_tree` a path outside its own tmp_path: if a guard is wrong, nothing else is lost.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from voxtractl.errors import LabError
from voxtractl.lab.disk import (
    claim,
    is_claimed,
    locked,
    mounts_at_or_below,
    read_json,
    read_secret,
    remove_tree,
    size,
    write,
)
from voxtractl.lab.ways import silent

# Lines as a kernel wrote them.
MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
41 27 0:38 / /srv/lab/root/proc rw,relatime - proc proc rw
42 27 0:39 / /srv/a\\040b/c rw,relatime - tmpfs none rw
"""


def test_a_written_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "secret", "x")
        write(tmp_path / "conf", "y", mode=0o640)
    finally:
        os.umask(before)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "conf").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "secret"]


def test_json_that_is_missing_or_emptied_by_a_power_cut_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none") is None
    (tmp_path / "empty").write_text("")
    assert read_json(tmp_path / "empty") is None
    (tmp_path / "good").write_text('{"pid": 1}')
    assert read_json(tmp_path / "good") == {"pid": 1}


def test_json_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot read"):
        read_json(tmp_path)


def test_a_missing_secret_is_an_error_that_names_the_lab(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        read_secret(tmp_path / "mine" / "ari-password")
    assert "--name mine" in str(caught.value.hint)


def test_a_claimed_tree_is_removed_with_links_but_not_what_they_point_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    own = tmp_path / "own"
    claim(own)
    (own / "link").symlink_to(kept)
    (own / "alone").symlink_to(kept)
    remove_tree(own / "alone", own)
    remove_tree(own / "never-there", own)
    assert is_claimed(own)
    remove_tree(own, own)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").exists()


def test_a_folder_no_lab_made_is_never_deleted(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("x")
    for path in (foreign, foreign / "file"):
        with pytest.raises(LabError, match="was not made by a lab"):
            remove_tree(path, foreign)
    assert (foreign / "file").exists()


def test_a_claim_permits_nothing_outside_of_it(tmp_path: Path) -> None:
    own, beside = tmp_path / "own", tmp_path / "beside"
    claim(own)
    beside.mkdir()
    (beside / "file").write_text("x")
    (own / "way-out").symlink_to(beside)
    for path in (beside, own / ".." / "beside", own / "way-out" / "file", tmp_path):
        with pytest.raises(LabError, match="is not inside"):
            remove_tree(path, own)
    assert (beside / "file").exists()


def test_a_link_to_a_claimed_folder_is_no_claim(tmp_path: Path) -> None:
    claim(tmp_path / "own")
    (tmp_path / "link").symlink_to(tmp_path / "own")
    with pytest.raises(LabError, match="was not made by a lab"):
        remove_tree(tmp_path / "link", tmp_path / "link")
    assert is_claimed(tmp_path / "own")


def test_what_is_there_cannot_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(LabError, match="exists and was not made by a lab") as caught:
        claim(tmp_path / "mine")
    assert "VOXTRACTL_LAB_HOME" in str(caught.value.hint)
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/", ["/proc", "/", "/srv/lab/root/proc", "/srv/a b/c"]),
        ("/srv/lab", ["/srv/lab/root/proc"]),
        ("/srv/lab/root/proc", ["/srv/lab/root/proc"]),
        ("/srv/a b", ["/srv/a b/c"]),
        ("/srv/la", []),
        ("/srv/lab/root/process", []),
    ],
)
def test_mounts_in_the_way_are_seen(folder: str, found: list[str]) -> None:
    assert mounts_at_or_below(Path(folder), MOUNTS) == [Path(point) for point in found]


def test_the_lock_makes_the_second_wait_and_say_so_and_is_freed_by_death(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from voxtractl.lab.disk import locked; "
            "from voxtractl.lab.ways import silent\n"
            "with locked(Path(sys.argv[1]), silent): print('held', flush=True); sys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said: list[str] = []

        def kill_the_holder(line: str) -> None:
            said.append(line)
            holder.kill()

        with locked(tmp_path, kill_the_holder):
            assert len(said) == 1
            assert "waiting" in said[0]


def test_a_home_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot write in"), locked(tmp_path / "missing", silent):
        raise AssertionError("not reached")


def test_the_size_of_a_missing_file_is_nothing(tmp_path: Path) -> None:
    assert size(tmp_path / "none") == 0
