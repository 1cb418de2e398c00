"""Settings know their source; secrets are read when used and never shown."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from voxtractl.errors import SettingsError
from voxtractl.settings import Secret, SecretRef, Settings

CANARY = "c4n4ry-S3cret"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VOXTRACTL_")]:
        monkeypatch.delenv(name)


def test_the_command_line_counts_more_than_the_environment_and_that_more_than_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOXTRACTL_CONFIG", "/env/tenants.toml")
    monkeypatch.setenv("VOXTRACTL_TIMEOUT", "5")
    settings = Settings.load({"config": Path("typed.toml")})
    assert (settings.config, settings.timeout, settings.output) == (Path("typed.toml"), 5.0, "text")
    assert {k: settings.sources[k] for k in ("config", "timeout", "output")} == {
        "config": "command line",
        "timeout": "environment",
        "output": "default",
    }


def test_nodes_of_the_environment_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXTRACTL_NODE", "pbx1, pbx2 pbx3")
    assert Settings.load({}).node == ("pbx1", "pbx2", "pbx3")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "NODE", "OUTPUT", "YES", "NO_COLOR", "VERBOSE", "TEMPLATES", "TIMEOUT"):
        monkeypatch.setenv(f"VOXTRACTL_{name}", "")
    assert Settings.load({}) == Settings(sources=Settings.load({}).sources)
    assert set(Settings.load({}).sources.values()) == {"default"}


@pytest.mark.parametrize(("name", "value"), [("OUTPUT", "xml"), ("TIMEOUT", "soon"), ("YES", "perhaps")])
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"VOXTRACTL_{name}", value)
    with pytest.raises(SettingsError, match=f"VOXTRACTL_{name}") as caught:
        Settings.load({})
    assert caught.value.hint == f"correct or unset VOXTRACTL_{name}"


def test_without_variables_pydantic_is_not_loaded() -> None:
    code = (
        "import sys; from voxtractl.settings import Settings\n"
        "Settings.load({}); print('pydantic' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("VOXTRACTL_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "False\n"


def test_a_secret_shows_stars_everywhere() -> None:
    secret = Secret(CANARY)
    assert CANARY not in f"{secret} {secret!r} {[secret]} {secret!s:>20}"
    assert secret.reveal() == CANARY
    assert secret == Secret(CANARY)
    assert secret != Secret("other")
    assert len({secret, Secret(CANARY)}) == 1


def test_a_place_of_a_secret_shows_its_key_only() -> None:
    """The words of a command may hold a token."""
    ref = SecretRef("command", ("vault", CANARY), "nodes.a.ari_password_command")
    assert (
        f"{ref} {[ref]}"
        == "SecretRef(nodes.a.ari_password_command) [SecretRef(nodes.a.ari_password_command)]"
    )


def test_a_secret_file_is_seen_from_the_documents_folder_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "ari").write_text(f"{CANARY}\n", encoding="utf-8")
    assert SecretRef("file", ("ari",), "nodes.a.ari_password_file").resolve(tmp_path).reveal() == CANARY
    assert SecretRef("file", (str(tmp_path / "ari"),), "x").resolve(Path("/")).reveal() == CANARY


def test_a_secret_of_the_environment_and_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PBX1", CANARY)
    assert SecretRef("env", ("PBX1",), "x").resolve(tmp_path).reveal() == CANARY
    assert SecretRef("command", ("printf", "%s\\n", CANARY), "x").resolve(tmp_path).reveal() == CANARY


@pytest.mark.parametrize(
    ("ref", "what"),
    [
        (SecretRef("file", ("gone",), "nodes.a.ari_password_file"), "gone does not exist"),
        (SecretRef("file", (".",), "nodes.a.ari_password_file"), "cannot be read: Is a directory"),
        (SecretRef("file", ("binary",), "nodes.a.ari_password_file"), "not UTF-8"),
        (SecretRef("file", ("empty",), "nodes.a.ari_password_file"), "the secret is empty"),
        (
            SecretRef("env", ("VOXTRACTL_TEST_UNSET",), "nodes.a.ari_password_env"),
            "VOXTRACTL_TEST_UNSET is not set",
        ),
        (SecretRef("command", ("/nowhere/pass",), "nodes.a.ari_password_command"), "pass cannot be run"),
        (SecretRef("command", ("sh", "-c", f"echo {CANARY}; exit 3"), "nodes.a.x"), "ended with exit code 3"),
        (SecretRef("command", ("sh", "-c", f"echo {CANARY} >&2; exit 3"), "nodes.a.x"), "exit code 3"),
        (SecretRef("command", ("printf", "\\377"), "nodes.a.x"), "not UTF-8"),
    ],
)
def test_a_secret_that_cannot_be_read_names_its_key_and_never_its_value(
    tmp_path: Path, ref: SecretRef, what: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        ref.resolve(tmp_path)
    error = caught.value
    assert error.message.startswith(f"{ref.where}: ")
    assert what in error.message
    assert error.hint
    assert CANARY not in f"{error} {error!r} {error.hint} {error.details}"


def test_a_password_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voxtractl.settings.SECRET_TIMEOUT", 0.05)
    with pytest.raises(SettingsError, match="sleep gave no password"):
        SecretRef("command", ("sleep", "60"), "x").resolve(tmp_path)
