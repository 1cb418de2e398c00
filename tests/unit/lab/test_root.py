"""Building the root, with programs of our own in the place of mmdebstrap and apt-get."""

import platform
from pathlib import Path

import pytest

from voxtractl.errors import LabError
from voxtractl.lab.disk import claim
from voxtractl.lab.root import account, build

BUILDS = """#!/bin/sh
for target; do :; done
echo "I: success in 1 second" >&2
mkdir -p "$target/usr/sbin" "$target/var" "$target/etc"
: > "$target/usr/sbin/asterisk"
echo "$@" > "$target/words"
"""
FAILS = """#!/bin/sh
for target; do :; done
mkdir -p "$target/half"
echo "I: running apt-get update..."
echo "E: Could not resolve 'deb.debian.org'" >&2
exit 25
"""
INSTALLS = f"""#!/bin/sh
[ "$1" = update ] && exit 100
cat > "$BIN/mmdebstrap" <<'END'
{BUILDS}END
chmod 755 "$BIN/mmdebstrap"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched first; unshare there runs the program without a namespace of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("BIN", str(folder))
    program(folder, "unshare", '#!/bin/sh\nshift 3\nexec "$@"\n')
    for name in ("sh", "mkdir", "cat", "chmod", "mount"):
        (folder / name).symlink_to(Path("/bin", name))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_a_root_appears_whole_and_progress_is_passed_on(programs: Path, tmp_path: Path) -> None:
    program(programs, "mmdebstrap", BUILDS)
    said: list[str] = []
    root = tmp_path / "home" / "root"
    root.parent.mkdir()
    build(root, said.append)
    assert (root / "usr/sbin/asterisk").exists()
    assert (root / "var/lab").stat().st_mode & 0o777 == 0o711
    assert (root / "etc/hosts").read_text() == f"127.0.0.1 localhost {platform.node()}\n"
    assert (root / "etc/hosts").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in root.parent.iterdir()] == ["root"]
    assert said[0].startswith(f"building Debian sid with Asterisk in {root}")
    assert said[1:] == ["success in 1 second"]


def test_the_words_for_mmdebstrap_are_those_that_were_measured(programs: Path, tmp_path: Path) -> None:
    program(programs, "mmdebstrap", BUILDS)
    build(tmp_path / "root", lambda _line: None)
    words = (tmp_path / "root" / "words").read_text()
    assert words.startswith(
        "--variant=apt --mode=root --include=asterisk "
        '--aptopt=Acquire::Check-Valid-Until "false" --aptopt=APT::Install-Recommends "false" sid '
    )


def test_a_root_that_is_there_is_not_built_again_but_knows_the_machine_by_its_name_today(
    programs: Path, tmp_path: Path
) -> None:
    claim(tmp_path / "root")
    (tmp_path / "root" / "etc").mkdir()
    (tmp_path / "root" / "etc/hosts").write_text("127.0.0.1 localhost yesterday\n")
    said: list[str] = []
    build(tmp_path / "root", said.append)
    assert said == []
    assert (tmp_path / "root" / "etc/hosts").read_text() == f"127.0.0.1 localhost {platform.node()}\n"


def test_a_folder_named_root_that_no_lab_made_is_left_alone(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(LabError, match="was not made by a lab"):
        build(tmp_path / "root", lambda _line: None)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_failed_build_leaves_nothing_and_tells_what_was_said(programs: Path, tmp_path: Path) -> None:
    program(programs, "mmdebstrap", FAILS)
    root = tmp_path / "home" / "root"
    root.parent.mkdir()
    with pytest.raises(LabError, match=r"mmdebstrap ended with exit code 25: E: Could not resolve") as caught:
        build(root, lambda _line: None)
    assert "mirror" in str(caught.value.hint)
    assert caught.value.details["output"] == [
        "I: running apt-get update...",
        "E: Could not resolve 'deb.debian.org'",
    ]
    assert list(root.parent.iterdir()) == []


def test_what_a_killed_builder_left_is_removed(programs: Path, tmp_path: Path) -> None:
    claim(tmp_path / "root")
    (tmp_path / "root" / "etc").mkdir()
    claim(tmp_path / "root.partial-1")
    (tmp_path / "root.partial-1" / "tree").mkdir()
    build(tmp_path / "root", lambda _line: None)
    assert not (tmp_path / "root.partial-1").exists()


def test_a_build_without_asterisk_is_refused(programs: Path, tmp_path: Path) -> None:
    program(programs, "mmdebstrap", '#!/bin/sh\nfor target; do :; done\nmkdir -p "$target"\n')
    with pytest.raises(LabError, match="without Asterisk"):
        build(tmp_path / "root", lambda _line: None)
    assert not (tmp_path / "root").exists()


def test_mmdebstrap_is_installed_when_missing_even_if_a_package_source_is_broken(
    programs: Path, tmp_path: Path
) -> None:
    program(programs, "apt-get", INSTALLS)
    said: list[str] = []
    build(tmp_path / "root", said.append)
    assert said[0] == "installing mmdebstrap with apt-get"
    assert (tmp_path / "root/usr/sbin/asterisk").exists()


def test_a_machine_without_mount_gets_it(programs: Path, tmp_path: Path) -> None:
    (programs / "mount").unlink()
    program(programs, "apt-get", INSTALLS)
    said: list[str] = []
    build(tmp_path / "root", said.append)
    assert said[0] == "installing mmdebstrap and mount with apt-get"


def test_without_apt_get_the_error_says_so(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot run apt-get"):
        build(tmp_path / "root", lambda _line: None)


def test_the_account_is_the_roots_own(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nasterisk:x:123:456::/:/bin/false\n")
    assert account(tmp_path) == (123, 456)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    with pytest.raises(LabError, match="no user asterisk"):
        account(tmp_path)
