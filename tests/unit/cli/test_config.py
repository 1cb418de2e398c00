"""`config check`: the command for CI."""

import json
from pathlib import Path

import pytest

from voxtractl.cli.entry import run

EXAMPLE = Path("tenants.example.toml").resolve()


def test_a_good_document_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "-c", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out == "ok: 2 tenants, 3 DIDs, 1 node, 1 file\n"
    assert run(["config", "check", "-c", str(EXAMPLE), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "tenants": 2,
        "dids": 3,
        "nodes": 1,
        "files": 1,
    }


def test_every_error_is_one_line_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tenants.toml").write_text('[tenants.acme]\nnane = "x"\ndids = ["1"]\n', encoding="utf-8")
    Path("tenants.d").mkdir()
    Path("tenants.d/b.toml").write_text("[tenants.b]\nx = \n", encoding="utf-8")
    assert run(["config", "check"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "tenants.d/b.toml:2:5: this is not TOML: invalid value; correct this line or the one before",
        "tenants.toml:2:1: tenants.acme.nane: unknown key; did you mean name?",
        'tenants.toml:3:9: tenants.acme.dids[0]: "1" is not a number in E.164 form; '
        "write + and country code, digits only, like +265999000001",
        "error: 3 errors in the document",
    ]
    assert run(["config", "check", "-o", "json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["id"] == "config.fleet"
    assert error["details"]["reasons"][1] == {
        "file": "tenants.toml",
        "line": 2,
        "col": 1,
        "path": "tenants.acme.nane",
        "what": "unknown key",
        "todo": "did you mean name?",
    }


def test_a_missing_document_says_how_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", "-c", str(tmp_path / "tenants.toml")]) == 3
    err = capsys.readouterr().err
    assert f"{tmp_path}/tenants.toml: the document does not exist" in err
    assert "voxtractl init" in err
