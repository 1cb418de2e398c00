"""What a shell completes: asked as bash asks, with the script that `--show-completion` prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = """
[nodes.pbx1]
ari = "http://127.0.0.1:8088"
ari_user = "voxtractl"
ari_password_env = "PASSWORD"
store = "memory:pbx1"
[nodes.lab]
ari = "http://127.0.0.1:8089"
ari_user = "voxtractl"
ari_password_env = "PASSWORD"
store = "memory:lab"
[tenants.acme]
dids = ["+265999000001"]
[tenants.adams]
dids = ["+265999000002"]
[tenants.beta]
dids = ["+265999000003"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tenants.toml").write_text(DOCUMENT)
    (tmp_path / "other.toml").write_text('[tenants.gamma]\ndids = ["+265999000001"]\n')
    command = tmp_path / "voxtractl"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m voxtractl "$@"\n')
    command.chmod(0o755)
    return tmp_path


def completed(folder: Path, line: str) -> list[str]:
    """What bash offers at the end of the line."""
    script = """
    eval "$(voxtractl --show-completion)"
    COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    if [[ $1 == *" " ]]; then COMP_WORDS+=(""); ((COMP_CWORD++)); fi
    _voxtractl_completion voxtractl
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script, "bash", line],
        cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("voxtractl ten", ["tenant"]),
        ("voxtractl tenant sh", ["show"]),
        ("voxtractl tenant show a", ["acme", "adams"]),
        ("voxtractl tenant add a", []),
        ("voxtractl run b", ["beta"]),
        ("voxtractl run acme b", ["beta"]),
        ("voxtractl --node ", ["lab", "pbx1"]),
        ("voxtractl node check p", ["pbx1"]),
        ("voxtractl dialplan verify ", ["acme", "adams", "beta"]),
        ("voxtractl dialplan push --allow-d", ["--allow-deletes"]),
        ("voxtractl --config missing.toml tenant show ", []),
        ("voxtractl --config other.toml tenant show ", ["gamma"]),
        ("voxtractl tenant show --config missing.toml ", []),
        ("voxtractl tenant show --config other.toml ", ["gamma"]),
        ("voxtractl tenant -c other.toml show g", ["gamma"]),
        ("voxtractl dialplan status --node ", ["lab", "pbx1"]),
        ("voxtractl tenant show -n p", ["pbx1"]),
        ("voxtractl dialplan status -o j", ["json"]),
        ("voxtractl -c ~/other.toml tenant show ", ["gamma"]),
    ],
)
def test_bash_is_offered_commands_options_and_names(folder: Path, line: str, words: list[str]) -> None:
    assert completed(folder, line) == words


def test_a_document_that_is_broken_offers_no_names_and_no_noise(folder: Path) -> None:
    (folder / "tenants.toml").write_text("[tenants")
    assert completed(folder, "voxtractl tenant show ") == []


def test_a_command_that_is_none_makes_no_noise(folder: Path) -> None:
    assert "tenant" in completed(folder, "voxtractl nothing ")


def test_a_home_that_cannot_be_written_is_told_and_is_no_bug(folder: Path) -> None:
    (folder / ".bashrc").mkdir()
    done = subprocess.run(
        ["bash", "-c", "voxtractl --install-completion; echo $?"],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "2"
    assert done.stderr.startswith(f"error: --install-completion: {folder / '.bashrc'} cannot be written: ")


def test_it_is_installed_for_the_user_alone(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", "voxtractl --install-completion; echo $?"],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert "voxtractl" in (folder / "home" / ".bashrc").read_text()


def test_the_first_tab_of_a_zsh_completes(folder: Path) -> None:
    subprocess.run(
        ["voxtractl", "--install-completion", "zsh"],
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",  # the shell is named, not looked for
        },
        check=True,
    )
    last = (folder / ".zfunc" / "_voxtractl").read_text().rstrip().splitlines()[-1]
    assert last == '[[ $zsh_eval_context[-1] != loadautofunc ]] || _voxtractl_completion "$@"'
