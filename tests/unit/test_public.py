"""Public is a promise: `__all__` stands in every module and says exactly what others may use.

Read from the source text, so that one look covers every module, also those a test does not otherwise load.
"""

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

import voxtractl

HERE: Final = Path(__file__).parents[2]
PACKAGE: Final = Path(voxtractl.__file__).parent


# Not promised and yet visible or used; exact, so that it only gets shorter.
KNOWN: Final[set[str]] = set()


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), ast.parse(path.read_text())


SOURCES: Final = dict(modules())


def promised(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def is_command(node: ast.stmt) -> bool:
    """A command of the command line belongs to typer and has no other caller."""
    return isinstance(node, ast.FunctionDef) and any(
        ast.unparse(decorator).startswith(("app.command(", "app.callback("))
        for decorator in node.decorator_list
    )


def visible(tree: ast.Module) -> set[str]:
    """Classes and functions without an underscore that the module itself makes."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and not node.name.startswith("_")
        and not is_command(node)
    }


def uses(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) for every name of the package that this module imports, or reaches through a module."""
    handles: dict[str, str] = {}  # the name under which another module is held here
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (whole := f"{node.module}.{alias.name}") in SOURCES:
                    handles[alias.asname or alias.name] = whole
                elif node.module in SOURCES:
                    yield node.module, alias.name
    for node in nodes:  # a parameter of that name is something else
        if isinstance(node, ast.arguments):
            for argument in [*node.posonlyargs, *node.args, *node.kwonlyargs]:
                handles.pop(argument.arg, None)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in handles:
            yield handles[node.value.id], node.attr


def broken() -> Iterator[str]:
    """module.name of everything that is visible or used by another module, and not promised."""
    used: dict[str, set[str]] = {}
    for user, tree in SOURCES.items():
        for module, name in uses(tree):
            if module != user:
                used.setdefault(module, set()).add(name)
    for module, tree in SOURCES.items():
        for name in visible(tree) | used.get(module, set()):
            if name not in (promised(tree) or ()) and name != "__version__":
                yield f"{module}.{name}"


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_opens_with_its_rule(module: str) -> None:
    tree = SOURCES[module]
    assert not tree.body or ast.get_docstring(tree), f"{module} does not say what lives in it"


@pytest.mark.parametrize("module", [name for name, tree in SOURCES.items() if len(tree.body) > 1])
def test_every_module_says_once_what_it_promises(module: str) -> None:
    names = promised(SOURCES[module])
    assert names is not None, f"{module} has no __all__"
    assert len(set(names)) == len(names)


def test_what_is_visible_or_used_by_others_is_promised() -> None:
    assert set(broken()) == KNOWN, "promise it in __all__, or give it an underscore; mended ones leave KNOWN"


@pytest.mark.parametrize("module", SOURCES)
def test_every_promised_name_is_there(module: str) -> None:
    if module.endswith("__main__"):
        return  # it has nothing but its start
    loaded = import_module(module)
    for name in promised(SOURCES[module]) or ():
        assert hasattr(loaded, name), f"{module}.{name}"


def test_the_package_loads_its_names_on_first_use_and_no_others() -> None:
    assert sorted(voxtractl.__all__) == dir(voxtractl)
    with pytest.raises(AttributeError):
        _ = voxtractl.Nothing


def test_the_first_screen_of_the_readme_has_both_commands() -> None:
    screen = (HERE / "README.md").read_text().splitlines()[:40]
    assert "make demo" in "\n".join(screen)
    assert "make test" in "\n".join(screen)


def test_the_oldest_python_is_the_same_everywhere() -> None:
    known = tomllib.loads((HERE / "pyproject.toml").read_text())
    oldest = known["project"]["requires-python"].removeprefix(">=")
    named = [one.rpartition(" ")[2] for one in known["project"]["classifiers"] if ":: Python :: 3." in one]
    assert named[0] == oldest
    assert known["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert known["tool"]["mypy"]["python_version"] == oldest
    for place in ("README.md", "docs/tutorial.md", ".ci/packages"):
        assert f"Python {oldest} or newer" in (HERE / place).read_text(), place


def test_the_top_level_is_the_one_of_the_design() -> None:
    expected = {
        "pyproject.toml",
        "voxtractl",
        "templates",
        "tests",
        "tenants.example.toml",
        "docs",
        "README.md",
    }
    expected |= {"Makefile", "LICENSE", "CHANGELOG.md", ".ci", ".gitignore"}
    made_by_tools = {".git", ".venv", ".lab", "build", "dist"}
    made_by_tools |= {path.name for path in HERE.glob(".*_cache")} | {
        path.name for path in HERE.glob(".coverage*")
    }
    found = {path.name for path in HERE.iterdir()} - made_by_tools - {".hypothesis"}
    assert found == expected
