"""The document on the disk: read as it is, written whole or not at all, by one writer at a time."""

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voxtractl.errors import DocumentError
from voxtractl.files import Source, create, locked, read_sources, remove, write

OLD = "old = 1\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.toml"
    path.write_text(OLD, encoding="utf-8")
    return path


def test_the_document_comes_first_and_the_folder_in_order_of_names(config: Path) -> None:
    folder = config.parent / "tenants.d"
    folder.mkdir()
    for name in ("b.toml", "a.toml", ".hidden.toml", "c.toml~", "readme.md", ".a.toml.voxtractl-new"):
        (folder / name).write_text(name, encoding="utf-8")
    (folder / "d.toml").mkdir()
    (folder / "e.toml").symlink_to(folder / "a.toml")
    assert read_sources(config) == (
        Source(str(config), OLD),
        Source(str(folder / "a.toml"), "a.toml"),
        Source(str(folder / "b.toml"), "b.toml"),
        Source(str(folder / "e.toml"), "a.toml"),
    )


def test_files_are_named_as_the_operator_named_the_document(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.parent / "tenants.d").mkdir()
    (config.parent / "tenants.d" / "a.toml").touch()
    monkeypatch.chdir(config.parent)
    assert [s.file for s in read_sources(Path("tenants.toml"))] == ["tenants.toml", "tenants.d/a.toml"]


def test_line_ends_and_long_files_are_read_exactly(config: Path) -> None:
    text = "a = 1\r\n# é\n" * 20_000
    config.write_bytes(text.encode())
    assert read_sources(config)[0].text == text


def test_a_missing_document_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="does not exist") as caught:
        read_sources(tmp_path / "tenants.toml")
    assert caught.value.where == str(tmp_path / "tenants.toml")
    assert "voxtractl init" in (caught.value.hint or "")


def test_a_link_that_leads_nowhere_is_no_tenant_less(config: Path) -> None:
    folder = config.parent / "tenants.d"
    folder.mkdir()
    (folder / "acme.toml").symlink_to("../gone/acme.toml")
    (folder / ".#beta.toml").symlink_to("somebody@somewhere")  # an editor's lock
    with pytest.raises(DocumentError, match="leads nowhere") as caught:
        read_sources(config)
    assert caught.value.where == str(folder / "acme.toml")
    assert "../gone/acme.toml" in (caught.value.hint or "")


def test_text_that_is_not_utf8_is_told_with_its_place(config: Path) -> None:
    config.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(DocumentError, match="not UTF-8") as caught:
        read_sources(config)
    assert (caught.value.line, caught.value.col) == (2, 6)


def test_a_folder_in_the_place_of_the_document_is_told(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be read: is a directory"):
        read_sources(tmp_path)


def test_a_write_keeps_mode_and_owner_and_leaves_nothing_beside(config: Path) -> None:
    config.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(config, 65534, 65533)
    before = config.stat()
    write(config, "new = 'é'\r\n")
    after = config.stat()
    assert config.read_bytes() == "new = 'é'\r\n".encode()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [p.name for p in config.parent.iterdir()] == ["tenants.toml"]


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "a.toml", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.toml").stat().st_mode) == 0o640


def test_what_is_not_a_regular_file_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for place in (pipe, tmp_path / "link"):
        with pytest.raises(DocumentError, match="not a regular file"):
            write(place, "new")
    assert pipe.is_fifo()


def test_a_symbolic_link_stays_and_its_target_is_replaced(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "repository"
    other.mkdir()
    config.rename(other / "real.toml")
    config.symlink_to("repository/real.toml")
    write(config, "new")
    assert config.is_symlink()
    assert (other / "real.toml").read_text(encoding="utf-8") == "new"


def in_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_writer_killed_before_the_rename_leaves_the_old_file_and_the_next_one_heals(
    config: Path, step: str
) -> None:
    code = (
        "import os, signal, sys, pathlib; from voxtractl import files\n"
        f"os.{step} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write(pathlib.Path(sys.argv[1]), 'new')"
    )
    assert in_child(code, config).returncode == -signal.SIGKILL
    assert config.read_text(encoding="utf-8") == OLD
    assert [s.text for s in read_sources(config)] == [OLD]
    write(config, "new")
    assert [(p.name, p.read_text(encoding="utf-8")) for p in config.parent.iterdir()] == [
        ("tenants.toml", "new")
    ]


def test_the_text_is_on_the_disk_before_it_takes_the_name_and_the_name_after(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order a power loss asks for: file synced, renamed, folder synced."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def note_replace(old: str, new: str) -> None:
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write(config, "new")
    assert steps == ["file", "rename", "folder"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that takes the old document and not a large new one: a small tmpfs where we may mount one,
    else this process may not write large files."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "voxtractl-test", folder], check=False
        ).returncode
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", folder], check=True)


def test_on_a_full_disk_the_old_document_stays(full_disk: Path) -> None:
    config = full_disk / "tenants.toml"
    config.write_text(OLD, encoding="utf-8")
    with pytest.raises(DocumentError, match=r"cannot be written: (no space left|file too large)") as caught:
        write(config, "x" * 200_000)
    assert "the old file is untouched" in (caught.value.hint or "")
    assert [(p.name, p.read_text(encoding="utf-8")) for p in full_disk.iterdir()] == [("tenants.toml", OLD)]
    write(config, "y" * 1000)
    assert config.stat().st_size == 1000


def test_a_file_that_is_new_and_does_not_fit_is_not_left_half_written(full_disk: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be written"):
        create(full_disk / "tenants.toml", "x" * 200_000)
    assert list(full_disk.iterdir()) == []


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be written: no such file"):
        write(tmp_path / "gone" / "tenants.toml", "x")
    with (
        pytest.raises(DocumentError, match="cannot be locked: no such file"),
        locked(tmp_path / "gone" / "x"),
    ):
        pass
    with pytest.raises(DocumentError, match="cannot be removed: no such file"):
        remove(tmp_path / "gone")


def test_creating_never_overwrites(config: Path) -> None:
    with pytest.raises(DocumentError, match="exists and is left as it is"):
        create(config, "new")
    assert config.read_text(encoding="utf-8") == OLD


def test_removing_takes_the_file_away(config: Path) -> None:
    remove(config)
    assert not config.exists()


HOLDER = (
    "import pathlib, sys; from voxtractl.files import locked\n"
    "with locked(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


def test_a_second_writer_is_refused_by_name_until_the_first_dies(config: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(DocumentError, match=rf"being edited by process {holder.pid} \(python") as caught,
            locked(config, patience=0),
        ):
            pass
        assert "nothing was changed" in (caught.value.hint or "")
        holder.kill()
        holder.wait()
    with locked(config, patience=0):
        pass


def test_a_writer_waits_for_the_one_before(config: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        holder.stdin.close()
        with locked(config, patience=60):
            pass


def test_the_lock_is_the_same_through_a_symbolic_link_and_leaves_no_file(
    config: Path, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere"
    link.mkdir()
    (link / "tenants.toml").symlink_to(config)
    with (
        locked(config),
        pytest.raises(DocumentError, match="being edited by"),
        locked(link / "tenants.toml", patience=0),
    ):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "tenants.toml"]


def test_every_file_is_opened_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.parent / "tenants.d"
    folder.mkdir()
    for i in range(200):
        (folder / f"t{i:04}.toml").write_text(f"[tenants.t{i}]\n", encoding="utf-8")
    opened: list[str] = []
    really = os.open

    def count(path: str, flags: int, mode: int = 0o777) -> int:
        opened.append(str(path))
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", count)
    assert len(read_sources(config)) == 201
    assert len(opened) == len(set(opened)) == 201
