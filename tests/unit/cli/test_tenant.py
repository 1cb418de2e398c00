"""The tenant commands, as typed: what they answer, and what they leave in the files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from voxtractl.cli.entry import run
from voxtractl.files import locked, read_sources
from voxtractl.model.document import parse

NODES = """\
# our nodes
[nodes.pbx1]
ari = "http://127.0.0.1:8088"
ari_user = "voxtractl"
ari_password_env = "PBX1"
store = "memory:pbx1"
"""
ACME = """\

# Acme, contract 4711
[tenants.acme]
name = "Acme Ltd" # with a comment
dids = ["+265999000001"]

[tenants.acme.trunk]
host = "sip.carrier.example"
password_command = ["vault", "read", "c4n4ry-S3cret"]
"""
CANARY = "c4n4ry-S3cret"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tenants.toml"
    path.write_text(NODES + ACME, encoding="utf-8")
    return path


def voxtractl(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(["tenant", *words])
    out, err = capsys.readouterr()
    assert CANARY not in out + err
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = voxtractl(capsys, *words, "-o", "json")
    document: dict[str, Any] = json.loads(out)
    assert document["ok"] is (code == 0)
    return code, document


def test_add_writes_everything_that_was_typed_and_nothing_else(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("add", "beta", "--name", 'Beta; "Clinic"', "--did", "+265999000002", "--did", "+265999000003"),
        *("--extension", "1000", "--handler", "handlers/beta.py:app", "--app", "beta-app"),
        *("--max-channels", "5", "--max-media-legs", "3", "--fallback", "queue=support", "--node", "pbx1"),
        *("--trunk-host", "h.example", "--trunk-username", "beta", "--trunk-password-file", "secrets/beta"),
        *("--queue", "support=PJSIP/a,PJSIP/b", "--queue", "sales=PJSIP/c"),
        *("--caller-id", "+265999000002", "--allow", "+265", "--deny", "+265900"),
    ]
    assert answer(capsys, *words) == (
        0,
        {"ok": True, "tenant": "beta", "file": "tenants.toml", "changed": True},
    )
    assert config.read_text(encoding="utf-8") == NODES + ACME + (
        "\n[tenants.beta]\n"
        'name = "Beta; \\"Clinic\\""\n'
        'dids = ["+265999000002", "+265999000003"]\n'
        'extensions = ["1000"]\n'
        'handler = "handlers/beta.py:app"\n'
        'app = "beta-app"\n'
        "max_channels = 5\n"
        "max_media_legs = 3\n"
        'fallback = { queue = "support" }\n'
        'nodes = ["pbx1"]\n'
        "\n[tenants.beta.trunk]\n"
        'host = "h.example"\n'
        'username = "beta"\n'
        'password_file = "secrets/beta"\n'
        "\n[tenants.beta.queues.support]\n"
        'members = ["PJSIP/a", "PJSIP/b"]\n'
        "\n[tenants.beta.queues.sales]\n"
        'members = ["PJSIP/c"]\n'
        "\n[tenants.beta.outbound]\n"
        'caller_ids = ["+265999000002"]\n'
        'allow = ["+265"]\n'
        'deny = ["+265900"]\n'
    )


def test_a_password_command_is_split_like_a_shell_does(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("add", "beta", "--trunk-host", "h", "--trunk-password-command", "pass show 'voice/beta trunk'")
    assert answer(capsys, *words)[0] == 0
    assert 'password_command = ["pass", "show", "voice/beta trunk"]\n' in config.read_text(encoding="utf-8")


def test_a_node_of_the_environment_limits_commands_but_is_not_written(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOXTRACTL_NODE", "pbx1")
    assert answer(capsys, "add", "beta")[0] == 0
    assert config.read_text(encoding="utf-8").endswith("\n[tenants.beta]\n")


def test_add_with_a_folder_touches_one_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "tenants.d").mkdir()
    (config.parent / "tenants.d" / "old.toml").write_text("[tenants.old]\n", encoding="utf-8")
    before = {p: p.stat().st_mtime_ns for p in config.parent.rglob("*.toml")}
    code, found = answer(capsys, "add", "beta", "--did", "+265999000002")
    assert (code, found["file"]) == (0, "tenants.d/beta.toml")
    new = config.parent / "tenants.d" / "beta.toml"
    assert new.read_text(encoding="utf-8") == '[tenants.beta]\ndids = ["+265999000002"]\n'
    assert {p: p.stat().st_mtime_ns for p in config.parent.rglob("*.toml") if p != new} == before


def test_adding_what_exists_names_its_place(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "add", "acme")
    assert code == 3
    assert found["error"]["where"] == "tenants.toml:9:10"
    assert found["error"]["message"] == "tenant acme exists already"
    assert "tenant set acme" in found["error"]["hint"]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        ("add Beta", 2, '"Beta" is not a slug'),
        ("add shared", 2, "shared is a reserved word"),
        ("add beta --did 0999", 3, 'tenants.beta.dids[0]: "0999" is not a number in E.164 form'),
        ("add beta --did +265999000001", 3, "DID +265999000001 already belongs to acme (tenants.toml:11)"),
        ("add beta --fallback vm-goodbye", 2, "--fallback is NAME=VALUE"),
        ("add beta --fallback say=x", 3, "tenants.beta.fallback.say: unknown key"),
        ("add beta --queue support", 2, "--queue is NAME=VALUE"),
        ("add beta --queue a=PJSIP/x,agent", 3, '"agent" is not a member of a queue'),
        ("add beta --trunk-username x", 3, "tenants.beta.trunk: host is missing"),
        ("add beta --node pbx9", 3, "there is no node pbx9"),
        ("add beta --trunk-password-command 'x", 2, "--trunk-password-command has an open quote"),
        ("set gamma name=x", 2, 'there is no tenant "gamma" in tenants.toml'),
        ("set amce name=x", 2, "did you mean acme?"),
        ("set acme", 2, "Missing argument"),
        ("set acme name", 2, "a change is KEY=VALUE"),
        ("set acme max_chanels=5", 3, "tenants.acme.max_chanels: unknown key; did you mean max_channels?"),
        ("set acme trunk.hots=", 3, "tenants.acme.trunk.hots: unknown key; did you mean host?"),
        ("set acme queues.x.member=", 3, "unknown key; did you mean members?"),
        ("set acme max_channels=many", 3, "this is text, not a whole number"),
        ("set acme dids=[1", 2, "the value of dids is not TOML"),
        ("set acme dids=+1", 3, 'tenants.acme.dids[0]: "+1" is not a number'),
        ("set acme trunk.password=c4n4ry-S3cret", 3, "a password must not stand in the document"),
        ("set acme trunk.password_env=c4n4ry-S3cret", 3, "write the name, not the password"),
        ("set acme trunk.host=", 3, "tenants.acme.trunk: host is missing"),
        ("show gamma", 2, 'there is no tenant "gamma"'),
        ("remove gamma --yes", 2, 'there is no tenant "gamma"'),
        ("remove acme", 2, "there is no terminal to confirm on"),
        ("list --node pbx9", 2, 'there is no node "pbx9"'),
    ],
)
def test_a_refused_command_says_why_and_leaves_every_byte(
    config: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, what: str
) -> None:
    before = config.read_bytes(), config.stat().st_mtime_ns
    found = voxtractl(capsys, *words.split())
    assert found[:2] == (code, "")
    assert what in found[2]
    assert (config.read_bytes(), config.stat().st_mtime_ns) == before
    assert [p.name for p in config.parent.iterdir()] == ["tenants.toml"]
    assert answer(capsys, *words.split())[0] == code


def test_set_changes_the_lines_of_its_keys(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "set",
        "acme",
        "name=New = Acme",
        "dids=+265999000001, +265999000002",
        "max_channels=20",
        "trunk.register=false",
        "trunk.password_command=",
        "trunk.codecs=['opus']",
        "fallback={ play = 'vm-goodbye' }",
        'handler="a.py:app"',
        "outbound.caller_ids=+265999000001",
        "outbound.calls_per_second=0.5",
    )
    assert answer(capsys, *words)[1]["changed"] is True
    assert config.read_text(encoding="utf-8") == NODES + (
        "\n# Acme, contract 4711\n"
        "[tenants.acme]\n"
        'name = "New = Acme" # with a comment\n'
        'dids = ["+265999000001", "+265999000002"]\n'
        "max_channels = 20\n"
        'fallback = { play = "vm-goodbye" }\n'
        'handler = "a.py:app"\n'
        "\n[tenants.acme.trunk]\n"
        'host = "sip.carrier.example"\n'
        "register = false\n"
        'codecs = ["opus"]\n'
        "\n[tenants.acme.outbound]\n"
        'caller_ids = ["+265999000001"]\n'
        "calls_per_second = 0.5\n"
    )


def test_setting_what_is_so_already_is_no_change(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = config.stat().st_mtime_ns
    assert answer(capsys, "set", "acme", "name=Acme Ltd", "app=")[1]["changed"] is False
    assert config.stat().st_mtime_ns == before


def test_remove_cuts_the_tenant_and_its_comment(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "remove", "acme", "--yes") == (
        0,
        {"ok": True, "tenant": "acme", "file": "tenants.toml", "changed": True},
    )
    assert config.read_text(encoding="utf-8") == NODES


def test_remove_takes_a_file_of_the_folder_along_when_it_says_nothing_more(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config.parent / "tenants.d"
    folder.mkdir()
    (folder / "two.toml").write_text("[tenants.one]\n[tenants.two]\n", encoding="utf-8")
    assert answer(capsys, "remove", "one", "--yes")[0] == 0
    assert (folder / "two.toml").read_text(encoding="utf-8") == "[tenants.two]\n"
    assert answer(capsys, "remove", "two", "--yes")[0] == 0
    assert list(folder.iterdir()) == []


def test_a_tenant_others_need_cannot_be_removed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(f'{NODES}{ACME}\n[defaults]\nunmatched = "acme"\n', encoding="utf-8")
    code, _, err = voxtractl(capsys, "remove", "acme", "--yes")
    assert code == 3
    assert "defaults.unmatched: there is no such tenant" in err
    assert "[tenants.acme]" in config.read_text(encoding="utf-8")


def test_list_shows_every_tenant_and_those_of_a_node(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = NODES.replace("pbx1", "pbx2") + '[tenants.beta]\nnodes = ["pbx2"]\n'
    config.write_text(NODES + ACME + more, encoding="utf-8")
    code, found = answer(capsys, "list")
    assert code == 0
    assert found["tenants"][0] == {
        "slug": "acme",
        "name": "Acme Ltd",
        "dids": ["+265999000001"],
        "app": "voxtra-acme",
        "nodes": ["pbx1", "pbx2"],
        "trunk": "sip.carrier.example",
        "queues": [],
        "outbound": False,
        "max_channels": None,
        "file": "tenants.toml",
    }
    assert [t["slug"] for t in answer(capsys, "list", "--node", "pbx1")[1]["tenants"]] == ["acme"]
    assert voxtractl(capsys, "list")[1].splitlines() == [
        "SLUG  NAME      DIDS           APP          NODES",
        "acme  Acme Ltd  +265999000001  voxtra-acme  all",
        "beta  beta                     voxtra-beta  pbx2",
    ]


def test_an_empty_list_says_what_to_do(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("", encoding="utf-8")
    assert voxtractl(capsys, "list")[1] == "no tenants yet; add one: voxtractl tenant add SLUG --did +265…\n"
    assert answer(capsys, "list")[1]["tenants"] == []


def test_show_tells_each_value_and_where_it_comes_from(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(f'{NODES}{ACME}\n[defaults]\napp_name = "x-{{{{ slug }}}}"\n', encoding="utf-8")
    found = answer(capsys, "show", "acme")[1]
    both = {key: (found["values"][key], found["origins"][key]) for key in found["values"]}
    assert both["name"] == ("Acme Ltd", "tenants.toml:10")
    assert both["app"] == ("x-acme", "tenants.toml:18")
    assert both["nodes"] == (["pbx1"], "default")
    assert both["trunk.host"] == ("sip.carrier.example", "tenants.toml:14")
    assert both["trunk.codecs"] == (["ulaw", "alaw"], "default")
    assert both["trunk.password_command"] == ("vault …", "tenants.toml:15")
    lines = voxtractl(capsys, "show", "acme")[1].splitlines()
    assert lines[0].split() == ["KEY", "VALUE", "FROM"]
    assert "trunk.host              sip.carrier.example  tenants.toml:14" in lines


def test_a_broken_document_is_not_edited_and_says_all_that_is_wrong(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(NODES + ACME + "[tenants.beta]\nx = 1\ny = 2\n", encoding="utf-8")
    code, _, err = voxtractl(capsys, "set", "acme", "name=x")
    assert code == 3
    assert "tenants.toml:17:1: tenants.beta.x: unknown key" in err
    assert "tenants.toml:18:1: tenants.beta.y: unknown key" in err
    assert "nothing was written" in err
    config.write_text("[tenants.acme\n", encoding="utf-8")
    for words in ("set acme name=x", "add beta", "remove acme --yes", "list", "show acme"):
        code, _, err = voxtractl(capsys, *words.split())
        assert code == 3
        assert "tenants.toml:1:14: this is not TOML" in err


def test_an_edit_while_another_is_at_it_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtractl.cli.tenant.files.locked", lambda path: locked(path, patience=0))
    with locked(config):
        code, _, err = voxtractl(capsys, "add", "beta")
    assert code == 3
    assert "the document is being edited by process" in err


@pytest.mark.parametrize("folder", [False, True])
def test_two_writers_at_once_lose_no_edit(config: Path, folder: bool) -> None:
    if folder:
        (config.parent / "tenants.d").mkdir()
    code = (
        "import sys; from voxtractl.cli.entry import run\n"
        "for i in range(12):\n"
        "    name, did = f'{sys.argv[1]}{i}', f'+26599900{sys.argv[2]}{i:02}'\n"
        "    assert run(['tenant', 'add', name, '--did', did]) == 0\n"
        "    assert run(['tenant', 'set', 'acme', f'queues.{name}.members=PJSIP/x']) == 0\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, name, digit], cwd=config.parent, stdout=subprocess.DEVNULL
        )
        for name, digit in (("a", "10"), ("b", "20"), ("c", "30"))
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    fleet = parse(read_sources(config))
    assert set(fleet.tenants) == {"acme", *(f"{name}{i}" for name in "abc" for i in range(12))}
    assert {q.name for q in fleet.tenants["acme"].queues} == {
        f"{name}{i}" for name in "abc" for i in range(12)
    }
    assert "# Acme, contract 4711\n" in config.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ("add", "beta", "--did", "+265999000002", "--push"),
        ("set", "acme", "max_channels=5", "--push"),
        ("remove", "acme", "--push"),
    ],
)
def test_a_push_that_nobody_can_confirm_is_told_before_anything_is_written(
    words: tuple[str, ...], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = answer(capsys, *words)
    assert (code, document["error"]["hint"]) == (2, "add --yes")
    assert config.read_text(encoding="utf-8") == NODES + ACME


def test_no_to_a_removal_is_an_answer_and_no_mistake(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtractl.cli.show.confirm", lambda question: False)
    assert answer(capsys, "remove", "acme") == (0, {"ok": True, "changed": False})
    code, out, err = voxtractl(capsys, "remove", "acme")
    assert (code, out, err) == (0, "nothing was removed\n", "")
    assert config.read_text(encoding="utf-8") == NODES + ACME
