"""The documentation says what the program does: generated parts are current, and every example would run.

When a generated page differs: `make docs`, and read the difference.
"""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

import voxtractl
from tests.tools import handlers_page, reference
from voxtractl.cli import entry
from voxtractl.files import Source
from voxtractl.model import document

HERE: Final = Path(__file__).parents[2]
PAGES: Final = sorted([HERE / "README.md", HERE / "CHANGELOG.md", *(HERE / "docs").rglob("*.md")])
GENERATED: Final = HERE / "docs" / "reference"
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(HERE)))


# --- what is generated --------------------------------------------------------------------------------------


def test_generated_pages_are_what_the_code_says_now() -> None:
    for path, text in reference.documents().items():
        assert path.read_text() == text, (
            f"{path.name} is not current: run `make docs` and read the difference"
        )


def test_the_reference_knows_every_command_and_key_and_no_others() -> None:
    assert {name for name, _, _ in reference.commands()} == set(reference.KINDS)
    keys = {place: set(meanings) for place, meanings in reference.MEANINGS.items()}
    assert keys == {place: set(names) for place, names in document.known_keys().items()}


@pytest.mark.parametrize("shown", handlers_page.CLASSES, ids=lambda shown: shown.name)
def test_every_public_name_of_a_handler_is_told_or_hidden_on_purpose(shown: handlers_page.Shown) -> None:
    told = {*shown.verbs.split(), *shown.attributes}
    assert handlers_page.public_names(shown) == told | set(shown.hidden.split())
    assert told.isdisjoint(shown.hidden.split())


def test_every_verb_says_what_it_does() -> None:
    text = (GENERATED / "handlers.md").read_text()
    for heading, rest in itertools.pairwise(re.split(r"^(#{2,3} .*)$", text, flags=re.MULTILINE)[1:]):
        if heading.startswith("### "):
            assert re.sub(r"```.*?```", "", rest, flags=re.DOTALL).strip(), heading


def test_every_variable_the_program_reads_is_in_the_reference() -> None:
    written = (GENERATED / "commands.md").read_text()
    sources = "".join(path.read_text() for path in (HERE / "voxtractl").rglob("*.py"))
    for name in set(re.findall(r"(?:VOXTRACTL|VOXTRA_ARI|XDG)_[A-Z]+(?:_[A-Z]+)*", sources)):
        assert f"`{name}`" in written, f"{name} is read by the code and not listed"


def test_every_error_id_is_in_the_list_of_errors() -> None:
    written = (HERE / "docs" / "errors.md").read_text()
    for id_ in reference.error_ids():
        assert f"| `{id_}` |" in written


def test_every_exit_code_is_in_the_list_of_exit_codes() -> None:
    written = (HERE / "docs" / "errors.md").read_text()
    for error in reference.error_ids().values():
        for code in reference.codes(error):
            assert f"\n| {code} |" in written


def test_every_decision_stands_in_their_index() -> None:
    index = (HERE / "docs" / "decisions" / "README.md").read_text()
    for path in (HERE / "docs" / "decisions").glob("[0-9]*.md"):
        assert f"({path.name})" in index


# --- what is written by hand --------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as the common viewers make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target} has no such heading"


def fences(path: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(path.read_text()):
        if language in languages:
            yield text


def command_lines(path: Path) -> Iterator[list[str]]:
    """The words of every voxtractl line in the page's shell examples."""
    for text in fences(path, "sh", "console", "yaml"):
        for line in text.replace("\\\n", " ").splitlines():
            typed = line.strip().removeprefix("- run: ").removeprefix("$ ")
            if not typed.startswith("voxtractl "):
                continue
            lexer = shlex.shlex(typed, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            yield list(itertools.takewhile(lambda word: not set(word) <= set("|&;<>()"), lexer))[1:]


def parse(words: list[str]) -> None:
    """Let typer read a whole command line without running it."""
    root = entry.build()
    command: Any = root
    ctx: Any = None
    args = entry.globals_first(words)
    name: str | None = "voxtractl"
    while True:
        ctx = command.make_context(name, args, parent=ctx)
        if not hasattr(command, "resolve_command"):
            return
        name, command, args = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])


@page
def test_every_command_line_of_an_example_can_be_typed(page: Path) -> None:
    for words in command_lines(page):
        try:
            parse(words)
        except typer.Exit:  # --help and --version end here
            continue
        except typer.TyperException as error:
            pytest.fail(f"{page.name}: voxtractl {' '.join(words)}: {error.format_message()}")


@page
def test_every_command_named_in_a_sentence_exists(page: Path) -> None:
    names = {name for name, _, _ in reference.commands()}
    groups = {name.split()[0] for name in names}
    for words in re.findall(r"`voxtractl ([^`]+)`", FENCE.sub("", page.read_text())):
        path = list(itertools.takewhile(lambda word: word[0].isalpha(), words.split()))[:2]
        if path:  # else it is about options
            known = path[0] in groups if len(path) == 1 else " ".join(path) in names or path[0] in names
            assert known, f"{page.name} names voxtractl {words}"


@page
def test_python_examples_are_python_and_import_what_there_is(page: Path) -> None:
    for text in fences(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "voxtractl":
                assert {alias.name for alias in node.names} <= set(voxtractl.__all__)


@page
def test_toml_examples_are_sound_documents(page: Path) -> None:
    for text in fences(page, "toml"):
        document.parse([Source(page.name, text)])


@page
def test_pages_name_no_place_of_one_machine(page: Path) -> None:
    for word in ("/work/", "/root/", "/home/", "/tmp/"):
        assert word not in page.read_text()
