"""Handler files become apps: each tenant its own module, faults with file and line, the peer's import."""

import sys
from pathlib import Path

import pytest

from voxtractl import VoxtraApp
from voxtractl.errors import HandlerFault
from voxtractl.runtime.loading import load_app

APP = "from voxtractl import VoxtraApp\napp = VoxtraApp()\n"


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def test_two_tenants_of_one_file_have_two_apps(tmp_path: Path) -> None:
    place = write(tmp_path, "handlers/same.py", APP + "count = [0]\n") + ":app"
    one, two = load_app(place, "acme", tmp_path), load_app(place, "beta", tmp_path)
    assert isinstance(one, VoxtraApp)
    assert one is not two


def test_modules_beside_a_handler_are_its_own(tmp_path: Path) -> None:
    for tenant in ("acme", "beta"):
        write(tmp_path, f"{tenant}/words.py", f"NAME = {tenant!r}\n")
        write(tmp_path, f"{tenant}/handler.py", APP + "import words\napp.app_name = words.NAME\n")
    names = [load_app(f"{t}/handler.py:app", t, tmp_path).app_name for t in ("acme", "beta")]
    assert names == ["acme", "beta"]
    assert "words" not in sys.modules
    assert not {str(tmp_path / "acme"), str(tmp_path / "beta")} & set(sys.path)


def test_a_module_of_a_package_is_loaded_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "firm_of_tests/__init__.py", "")
    write(tmp_path, "firm_of_tests/words.py", "NAME = 'from the package'\n")
    text = APP + "from firm_of_tests.words import NAME\nfrom .words import NAME as again\n"
    write(tmp_path, "firm_of_tests/calls.py", text + "app.app_name = again\n")
    sys.path.insert(0, str(tmp_path))
    try:
        assert load_app("firm_of_tests.calls:app", "acme", tmp_path).app_name == "from the package"
    finally:
        sys.path.remove(str(tmp_path))
        for name in [name for name in sys.modules if name.startswith("firm_of_tests")]:
            del sys.modules[name]


def test_a_file_of_the_peer_library_runs_unchanged_and_its_run_returns(tmp_path: Path) -> None:
    text = "from voxtra import VoxtraApp, CallSession\napp = VoxtraApp(ari_url='http://x')\napp.run()\n"
    assert isinstance(load_app(write(tmp_path, "peer.py", text) + ":app", "acme", tmp_path), VoxtraApp)


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("import nothing_here\n", "No module named 'nothing_here'", ":1"),
        ("\n\n1 / 0\n", "ZeroDivisionError", ":3"),
        ("def f(:\n", "SyntaxError", ":1"),
        ("\nraise SystemExit(3)\n", "SystemExit", ":2"),
        ("app = 7\n", "no VoxtraApp named 'app'", ""),
        ("", "no VoxtraApp named 'app'", ""),
    ],
)
def test_a_fault_names_the_tenant_the_file_and_the_line(
    tmp_path: Path, text: str, what: str, line: str
) -> None:
    place = write(tmp_path, "bad.py", text)
    with pytest.raises(HandlerFault, match=what) as caught:
        load_app(f"{place}:app", "acme", tmp_path)
    assert caught.value.tenant == "acme"
    assert str(caught.value.where).endswith(f"bad.py{line}")


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("nowhere.py:app", "does not exist"),
        ("no.such.module:app", "No module named 'no'"),
        ("nosuch:app", "no module"),
    ],
)
def test_a_handler_that_is_not_there_is_told(tmp_path: Path, place: str, what: str) -> None:
    with pytest.raises(HandlerFault, match=what):
        load_app(place, "acme", tmp_path)
