"""`init`: a folder to start from, and nothing lost that was there."""

import json
import os
import stat
from pathlib import Path

import pytest

from voxtractl.cli.entry import run
from voxtractl.runtime.loading import Code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_it_writes_is_a_document_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init"]) == 0
    assert run(["config", "check"]) == 0
    assert run(["tenant", "add", "acme", "--did", "+265999000001"]) == 0
    out = capsys.readouterr().out
    assert "ok: 0 tenants, 0 DIDs, 1 node, 1 file" in out
    assert "voxtractl node init pbx1" in out


def test_its_commented_tenant_is_valid_when_the_marks_are_removed() -> None:
    assert run(["init"]) == 0
    text = Path("tenants.toml").read_text(encoding="utf-8")
    head, example = text.split("or write it here:\n#\n")
    plain = "".join(line.removeprefix("#").removeprefix(" ") for line in example.splitlines(keepends=True))
    Path("tenants.toml").write_text(head + "\n" + plain, encoding="utf-8")
    assert "\n[tenants.acme.outbound]" in plain
    assert run(["config", "check"]) == 0


def test_secrets_have_a_folder_that_nobody_else_reads_and_git_leaves_out() -> None:
    assert run(["init"]) == 0
    assert stat.S_IMODE(os.stat("secrets").st_mode) == 0o700
    assert "*\n" in Path("secrets/.gitignore").read_text(encoding="utf-8")


def test_a_folder_that_is_not_there_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "new/place", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "files": [
            "new/place/tenants.toml",
            "new/place/secrets/.gitignore",
            "new/place/handlers/example.py",
        ],
    }
    assert run(["config", "check", "-c", "new/place/tenants.toml"]) == 0


def test_its_handler_is_one_that_can_be_served() -> None:
    assert run(["init"]) == 0
    app = Code("handlers/example.py:app", "acme", Path.cwd()).load()
    assert app.router.find("+265999000001") is not None


def test_handlers_that_exist_are_left_alone() -> None:
    Path("handlers").mkdir()
    assert run(["init"]) == 0
    assert os.listdir("handlers") == []


def test_nothing_is_ever_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tenants.toml").write_text("mine", encoding="utf-8")
    assert run(["init"]) == 3
    assert "tenants.toml: the file exists and is left as it is" in capsys.readouterr().err
    assert Path("tenants.toml").read_text(encoding="utf-8") == "mine"
    assert os.listdir() == ["tenants.toml"]


def test_secrets_that_exist_are_left_alone() -> None:
    Path("secrets").mkdir(mode=0o750)
    Path("secrets/pbx1.ari").write_text("x", encoding="utf-8")
    assert run(["init"]) == 0
    assert os.listdir("secrets") == ["pbx1.ari"]


def test_a_file_in_the_place_of_the_folder_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").touch()
    assert run(["init", "a"]) == 3
    assert "error: a: the folder cannot be made: file exists" in capsys.readouterr().err
