"""Handler files become apps: each tenant its own package, faults with file and line, the peer's import."""

import logging
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from traceback import extract_tb

import pytest

from voxtractl import VoxtraApp
from voxtractl.errors import HandlerFault
from voxtractl.runtime.loading import Code, unload

APP = "from voxtractl import VoxtraApp\napp = VoxtraApp()\n"


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def load(handler: str, tenant: str, base: Path) -> VoxtraApp:
    return Code(handler, tenant, base).load()


def test_two_tenants_of_one_file_have_two_apps(tmp_path: Path) -> None:
    place = write(tmp_path, "handlers/same.py", APP + "count = [0]\n") + ":app"
    one, two = load(place, "acme", tmp_path), load(place, "beta", tmp_path)
    assert isinstance(one, VoxtraApp)
    assert one is not two


WORDS = {
    "import words": "words.NAME",
    "import words as w": "w.NAME",
    "from words import NAME": "NAME",
    "from words import *": "NAME",
    "from . import words": "words.NAME",
    "from .words import NAME": "NAME",
    "import lib.deep": "lib.deep.NAME",
    "import lib.deep as d": "d.NAME",
    "from lib import deep": "deep.NAME",
    "from lib.deep import NAME": "NAME",
    "from plain import deep": "deep.NAME",
}


@pytest.mark.parametrize("statement", WORDS)
def test_modules_beside_a_handler_are_its_own_also_when_they_are_imported_later(
    tmp_path: Path, statement: str
) -> None:
    before, names = list(sys.path), set(sys.modules)
    for tenant in ("acme", "beta"):
        write(tmp_path, f"{tenant}/words.py", f"from lib.deep import OTHER\nNAME = {tenant!r} + OTHER\n")
        write(tmp_path, f"{tenant}/lib/__init__.py", "")
        write(tmp_path, f"{tenant}/lib/deep.py", f"OTHER = ''\nNAME = {tenant!r}\n")
        write(tmp_path, f"{tenant}/plain/deep.py", "import words\nNAME = words.NAME\n")  # no __init__.py
        text = f"{statement}\napp.app_name = {WORDS[statement]}\n"
        if "*" not in statement:
            text += f"def later():\n    {statement}\n    return {WORDS[statement]}\napp.later = later\n"
        write(tmp_path, f"{tenant}/handler.py", APP + text)
    apps = {t: load(f"{t}/handler.py:app", t, tmp_path) for t in ("acme", "beta")}
    assert {t: app.app_name for t, app in apps.items()} == {"acme": "acme", "beta": "beta"}
    if "*" not in statement:
        assert {t: app.later() for t, app in apps.items()} == {"acme": "acme", "beta": "beta"}  # type: ignore[attr-defined]
    assert sys.path == before
    assert not {name.partition(".")[0] for name in set(sys.modules) - names} & {"words", "lib", "plain"}


def test_a_folder_that_a_handler_puts_into_the_path_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = (
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))\nimport helper\n"
    )
    for slug in ("acme", "beta"):
        write(tmp_path, f"{slug}/lib/helper.py", f"whose = {slug!r}\n")
        code = Code(write(tmp_path, f"{slug}/calls.py", text + APP) + ":app", slug, tmp_path)
        code.load()
        assert sys.modules[f"{code.package}.helper"].whose == slug
        write(tmp_path, f"{slug}/lib/helper.py", "whose = 'nobody'\n")
        assert code.is_stale()


def test_a_module_first_imported_in_a_call_is_the_tenants(tmp_path: Path) -> None:
    write(tmp_path, "acme/words.py", "NAME = 'acme'\n")
    text = APP + "def later():\n    import words\n    return words.NAME\napp.later = later\n"
    write(tmp_path, "acme/handler.py", text)
    app = load("acme/handler.py:app", "acme", tmp_path)
    assert app.later() == "acme"  # type: ignore[attr-defined]


def test_the_standard_library_and_what_is_installed_are_found_as_ever(tmp_path: Path) -> None:
    write(tmp_path, "wave.py", "raise AssertionError('a tenant of that name')\n")  # stdlib: the sound files
    (tmp_path / "aiohttp").mkdir()  # a folder is no package when there is one of the name
    text = APP + "import os.path, wave, aiohttp\nimport voxtractl.errors\nfrom email import message\n"
    text += "app.found = (os.path.join('a', 'b'), wave.open, aiohttp.ClientSession)\n"
    write(tmp_path, "handler.py", text)
    app = load("handler.py:app", "acme", tmp_path)
    assert app.found[0] == "a/b"  # type: ignore[attr-defined]


def test_a_module_may_import_the_handler_that_imports_it(tmp_path: Path) -> None:
    write(tmp_path, "words.py", "from handler import app\nSAME = app\n")
    write(tmp_path, "handler.py", APP + "import words\napp.same = words.SAME is app\n")
    assert load("handler.py:app", "acme", tmp_path).same  # type: ignore[attr-defined]


def test_dataclasses_and_pickle_find_the_modules_of_a_tenant(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    write(tmp_path, "words.py", text + "@dataclass\nclass Word:\n    text: str\n")
    write(tmp_path, "handler.py", APP + "import words\napp.word = words.Word('hello')\n")
    code = Code("handler.py:app", "acme", tmp_path)
    app = code.load()
    assert pickle.loads(pickle.dumps(app.word)) == app.word  # type: ignore[attr-defined]
    unload([code])
    assert not [name for name in sys.modules if name.startswith(code.package)]


def test_a_process_that_is_forked_finds_the_functions_of_a_tenant(tmp_path: Path) -> None:
    write(tmp_path, "words.py", "def longer(text): return text + '!'\n")
    begin = "import multiprocessing, words\nfrom concurrent.futures import ProcessPoolExecutor\n" + APP
    write(
        tmp_path,
        "acme.py",
        f"{begin}with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork')) as pool:\n"
        "    app.said = pool.submit(words.longer, 'hello').result(10)\n",
    )
    there = (
        "from pathlib import Path\nfrom voxtractl.runtime.loading import Code\n"
        f"print(Code('acme.py:app', 'acme', Path({str(tmp_path)!r})).load().said)\n"
    )
    run = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, timeout=60)
    assert run.stdout == "hello!\n", run.stderr


def test_a_module_of_a_package_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    write(site, "firm_of_tests/__init__.py", "")
    write(site, "firm_of_tests/words.py", "NAME = 'from the package'\n")
    text = APP + "from firm_of_tests.words import NAME\nfrom .words import NAME as again\n"
    write(site, "firm_of_tests/calls.py", text + "app.app_name = again\n")
    monkeypatch.syspath_prepend(str(site))
    try:
        one, two = (load("firm_of_tests.calls:app", tenant, tmp_path) for tenant in ("acme", "beta"))
        assert one.app_name == two.app_name == "from the package"
        assert one is not two
    finally:
        for name in [name for name in sys.modules if name.startswith("firm_of_tests")]:
            del sys.modules[name]


def test_a_package_beside_the_document_is_the_tenants_own(tmp_path: Path) -> None:
    write(tmp_path, "firm/__init__.py", "")
    write(tmp_path, "firm/words.py", "COUNT = []\n")
    text = APP + "from firm.words import COUNT\nfrom .words import COUNT as again\nCOUNT.append(1)\n"
    write(tmp_path, "firm/calls.py", text + "app.count = again\n")
    one, two = (load("firm.calls:app", tenant, tmp_path) for tenant in ("acme", "beta"))
    assert one.count == two.count == [1]  # type: ignore[attr-defined]
    assert "firm" not in sys.modules


def test_a_load_that_never_ends_holds_up_nobody(tmp_path: Path) -> None:
    text = "import threading, words\napp = VoxtraApp()\n"
    write(tmp_path, "words.py", "import sys\nsys.go = __import__('threading').Event()\nsys.go.wait()\n")
    write(tmp_path, "stuck.py", "from voxtractl import VoxtraApp\n" + text)
    write(tmp_path, "good.py", APP)
    stuck = Code("stuck.py:app", "acme", tmp_path)
    waiting = stuck.start()
    assert isinstance(Code("good.py:app", "beta", tmp_path).start().result(10), VoxtraApp)
    while not hasattr(sys, "go"):
        threading.Event().wait(0.01)
    assert stuck.standing() == f"{tmp_path}/words.py:3"
    assert not waiting.done()
    assert stuck.hangs()
    sys.go.set()
    assert isinstance(waiting.result(10), VoxtraApp)
    del sys.go


def test_a_change_of_any_of_its_files_makes_code_stale(tmp_path: Path) -> None:
    write(tmp_path, "lib/words.py", "")
    write(tmp_path, "handler.py", APP + "import lib.words\n")
    code = Code("handler.py:app", "acme", tmp_path)
    code.load()
    assert not code.is_stale()
    for file in ("lib/words.py", "handler.py"):
        now = (tmp_path / file).stat()
        os.utime(tmp_path / file, ns=(now.st_atime_ns, now.st_mtime_ns + 1_000_000))
        assert code.is_stale()
        os.utime(tmp_path / file, ns=(now.st_atime_ns, now.st_mtime_ns))
        assert not code.is_stale()


def test_code_that_could_not_be_loaded_is_stale_when_the_missing_file_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for handler, file in (("handler.py:app", "handler.py"), ("other.py:app", "words.py")):
        write(tmp_path, "other.py", APP + "import words\n")
        code = Code(handler, "acme", tmp_path)
        with pytest.raises(HandlerFault):
            code.load()
        assert not code.is_stale()
        write(tmp_path, f"{file}.db", "")  # what calls leave there is no code
        assert not code.is_stale()
        write(tmp_path, file, APP)
        assert code.is_stale()


@pytest.mark.parametrize(("handler", "folder"), [("handlers/acme.py:app", ""), ("acme:app", "handlers")])
def test_a_link_that_leads_to_another_release_makes_code_stale(
    tmp_path: Path, handler: str, folder: str
) -> None:
    """Also when the handler file is the very same and what lies beside it is not, as `cp -al` makes them."""
    for release in ("1", "2"):
        write(tmp_path / release, "handlers/words.py", f"NAME = {release!r}\n")
    write(tmp_path / "1", "handlers/acme.py", "import words\n" + APP + "app.name = words.NAME\n")
    os.link(tmp_path / "1/handlers/acme.py", tmp_path / "2/handlers/acme.py")
    link = tmp_path / "current"
    link.symlink_to("1")
    base = link / folder
    code = Code(handler, "acme", base)
    assert vars(code.load())["name"] == "1"
    assert not code.is_stale()
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(link)
    assert code.is_stale()
    assert vars(load(handler, "acme", base))["name"] == "2"


def test_another_file_in_the_place_of_one_makes_code_stale_whatever_its_time_is(tmp_path: Path) -> None:
    place = write(tmp_path, "acme.py", "import words\n" + APP) + ":app"
    words, new = tmp_path / write(tmp_path, "words.py", ""), tmp_path / write(tmp_path, "new.py", "")
    code = Code(place, "acme", tmp_path)
    code.load()
    os.utime(new, ns=(words.stat().st_atime_ns, words.stat().st_mtime_ns))
    new.replace(words)
    assert code.is_stale()


def test_a_file_of_the_same_second_and_size_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    place = write(tmp_path, "acme.py", APP + "word = 'one'\n")
    load(f"{place}:app", "acme", tmp_path)
    second = (tmp_path / "acme.py").stat().st_mtime_ns // 10**9 * 10**9
    write(tmp_path, "acme.py", APP + "word = 'two'\n")
    os.utime(tmp_path / "acme.py", ns=(second, second))
    code = Code(f"{place}:app", "acme", tmp_path)
    code.load()
    assert sys.modules[f"{code.package}.acme"].word == "two"


def test_a_file_of_the_peer_library_runs_unchanged_and_its_run_returns(tmp_path: Path) -> None:
    text = "from voxtra import VoxtraApp, CallSession\napp = VoxtraApp(ari_url='http://x')\napp.run()\n"
    assert isinstance(load(write(tmp_path, "peer.py", text) + ":app", "acme", tmp_path), VoxtraApp)


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("import nothing_here\n", "No module named 'nothing_here'", "bad.py:1"),
        ("from lib import nothing_here\n", "cannot import name 'nothing_here' from 'lib'", "bad.py:1"),
        ("import lib.nothing_here\n", "No module named 'lib.nothing_here'", "bad.py:1"),
        ("\n\n1 / 0\n", "ZeroDivisionError", "bad.py:3"),
        ("def f(:\n", "SyntaxError", "bad.py:1"),
        ("\nimport lib.broken\n", "SyntaxError", "broken.py:2"),
        ("\nimport lib.wrong\n", "ZeroDivisionError", "wrong.py:1"),
        ("\nraise SystemExit(3)\n", "SystemExit", "bad.py:2"),
        ("class E(Exception):\n    __str__ = None\nraise E\n", "E: it cannot be told", "bad.py:3"),
        ("def __getattr__(name):\n    raise SystemExit(name)\n", "SystemExit", "bad.py:2"),
        ("\nfrom voxtra import Flow\n", r"has no voxtra\.Flow; docs/handlers\.md", "bad.py:2"),
        ("\nimport voxtra.audio\nvoxtra.audio.mix\n", r"has no voxtra\.audio\.mix", "bad.py:3"),
        ("app = 7\n", "no VoxtraApp named 'app'", "bad.py"),
        ("", "no VoxtraApp named 'app'", "bad.py"),
    ],
)
def test_a_fault_names_the_tenant_the_file_and_the_line(
    tmp_path: Path, text: str, what: str, line: str
) -> None:
    write(tmp_path, "lib/__init__.py", "")
    write(tmp_path, "lib/broken.py", "\ndef f(:\n")
    write(tmp_path, "lib/wrong.py", "1 / 0\n")
    place = write(tmp_path, "bad.py", text)
    with pytest.raises(HandlerFault, match=what) as caught:
        load(f"{place}:app", "acme", tmp_path)
    assert caught.value.tenant == "acme"
    assert str(caught.value.where).endswith(line)
    if (cause := caught.value.__cause__) is not None:  # its traceback begins with their files, not with ours
        assert all(str(tmp_path) in frame.filename for frame in extract_tb(cause.__traceback__)[:1])


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
        load(place, "acme", tmp_path)


def test_modules_and_their_loggers_are_forgotten(tmp_path: Path) -> None:
    names = "import logging\nlogging.getLogger(__name__)\n"
    place = write(tmp_path, "acme.py", names + "import words\n" + APP) + ":app"
    write(tmp_path, "words.py", names)
    before = {*sys.modules}, {*logging.root.manager.loggerDict}
    code = Code(place, "acme", tmp_path)
    code.load()
    assert f"{code.package}.words" in logging.root.manager.loggerDict
    unload([code])
    assert ({*sys.modules}, {*logging.root.manager.loggerDict}) == before


def test_modules_are_forgotten_while_another_tenants_handler_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Importing(str):
        """A name at which another thread adds a module."""

        def partition(self, sep: str, /) -> tuple[str, str, str]:
            monkeypatch.setitem(sys.modules, "comes_meanwhile", pytest)
            return super().partition(sep)

    monkeypatch.setitem(sys.modules, Importing("probe"), pytest)
    code = Code(write(tmp_path, "acme.py", APP) + ":app", "acme", tmp_path)
    code.load()
    unload([code])
    assert not [name for name in sys.modules if name.startswith(code.package)]
