"""Asterisk's configuration text ⇄ sections, and extensions.conf's sections ⇄ steps. Pure text, no opinion.

``read`` follows Asterisk's own reader (main/config.c process_text_line, pbx/pbx_config.c): what it strips,
cuts at a ``;`` or skips with a warning is stripped, cut or reported as a fault here. What the text may hold
is ``lint.py``'s question.

    [from-trunk](!,base)                      Section(name, options, line, entries)
    exten => +265999000001,1(v-3f9c),NoOp()   Entry(key, value, line)
     same => n,Hangup()                       Step(exten, priority, label, app, args, line)
    #include other.conf                       Directive(name, value, line)
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["Directive", "Entry", "Fault", "Section", "Step", "Text", "exten_key", "read", "steps", "write"]

_BLANKS: Final = "".join(map(chr, range(33)))  # what ast_strip takes off: everything up to the blank
_SECTION: Final = re.compile(r"\[([^\]]*)\](?:\(([^)]*)\))?(.*)", re.DOTALL)
_PRIORITY: Final = re.compile(r"([0-9]+|[ns])(?:\+([0-9]+))?(?:\(([^)]*)\))?")


class Fault(NamedTuple):
    """A line that Asterisk would skip, or worse."""

    line: int
    what: str
    todo: str


class Entry(NamedTuple):
    """``key = value`` or ``key => value``, as Asterisk understands it."""

    key: str
    value: str
    line: int


class Directive(NamedTuple):
    """``#include``, ``#tryinclude`` or ``#exec``."""

    name: str
    value: str
    line: int


class Section(NamedTuple):
    """One ``[name](options)`` with its entries. The same name may come again: Asterisk joins contexts."""

    name: str
    options: tuple[str, ...]
    line: int
    entries: list[Entry]

    @property
    def template(self) -> bool:
        """True when it makes nothing by itself."""
        return "!" in self.options


class Text(NamedTuple):
    """A whole file, or a fragment of one."""

    sections: list[Section]
    directives: list[Directive]
    faults: list[Fault]


class Step(NamedTuple):
    """One priority of an extension, its number worked out; a hint has the priority 0."""

    exten: str
    priority: int
    label: str
    app: str
    args: str
    line: int


def read(text: str) -> Text:
    """The sections of a text; never raises. Line numbers start at 1."""
    sections: list[Section] = []
    directives: list[Directive] = []
    faults: list[Fault] = []
    entries: list[Entry] | None = None
    block = 0  # how many ;-- are open
    opened = 0
    for number, raw in enumerate(text.split("\n"), 1):
        if block or ";" in raw:
            line, inside = _uncommented(raw, block)
            if inside and not block:
                opened = number
            block = inside
            line = line.strip(_BLANKS)
        else:
            line = raw.strip(_BLANKS)
        if not line:
            continue
        first = line[0]
        if first == "[":
            section = _section(line, number, faults)
            if section:
                sections.append(section)
                entries = section.entries
        elif first == "#":
            name, _, value = line[1:].partition(" ")
            directives.append(Directive(name.strip(), value.strip(_BLANKS).strip('"<>'), number))
        else:
            key, sign, value = line.partition("=")
            if not sign:
                faults.append(Fault(number, "a line without =", "write key = value"))
            elif entries is None:
                faults.append(Fault(number, "a line before the first section", "put it below a [section]"))
            else:
                if value[:1] == ">":
                    value = value[1:]
                entries.append(Entry(key.rstrip(_BLANKS), value.lstrip(_BLANKS), number))
    if block > 0:
        faults.append(Fault(opened, "a block comment that never ends", "close it with --;"))
    elif block < 0:
        faults.append(Fault(opened, "a --; that closes nothing hides all that follows", "remove it"))
    return Text(sections, directives, faults)


def steps(section: Section, faults: list[Fault] | None = None) -> Iterator[Step]:
    """The steps of a context's ``exten`` and ``same`` lines; lines that make none are told in ``faults``."""
    told: list[Fault] = [] if faults is None else faults
    exten = ""
    last = 0
    for key, value, line in section.entries:
        if key == "exten":
            exten, comma, rest = value.partition(",")
            exten = exten.strip(_BLANKS)
            last = 0
            if not comma:
                told.append(Fault(line, "an extension without a priority", "write exten => NUMBER,1,App()"))
                exten = ""
                continue
        elif key == "same":
            rest = value
        else:
            continue
        if not exten:
            told.append(Fault(line, "same without an extension above it", "write exten => NUMBER,1,App()"))
            continue
        given, comma, call = rest.partition(",")
        given = given.strip(_BLANKS)
        label = ""
        if given == "n" or given == "1":  # nearly all of them
            last = last + 1 if given == "n" else 1
        elif given == "hint":
            yield Step(exten, 0, "", "", call, line)
            continue
        else:
            match = _PRIORITY.fullmatch(given)
            if not match:
                told.append(
                    Fault(line, f"{given!r} is not a priority", "write 1 for the first, n for the next")
                )
                continue
            start, plus, named = match.groups()
            last = (last + (start == "n") if start in "ns" else int(start)) + int(plus or 0)
            label = (named or "").strip(_BLANKS)
        if not comma:
            told.append(Fault(line, "a priority without an application", "write an application after it"))
            continue
        app, paren, args = call.strip(_BLANKS).partition("(")
        if paren:
            if args[-1:] != ")":
                told.append(Fault(line, "an application without its closing )", "close it"))
            else:
                args = args[:-1]
        yield Step(exten, last, label, app, args, line)


def exten_key(exten: str) -> str:
    """What Asterisk compares: ``-`` does not count in an extension (measured), ``_`` begins a pattern."""
    return exten.replace("-", "") if "-" in exten and "[" not in exten else exten


def write(sections: Iterable[Section]) -> str:
    """The text of sections; ``read`` gives them back."""
    lines: list[str] = []
    for section in sections:
        if lines:
            lines.append("")
        options = f"({','.join(section.options)})" if section.options else ""
        lines.append(f"[{section.name}]{options}")
        lines.extend(f"{entry.key} => {entry.value.replace(';', chr(92) + ';')}" for entry in section.entries)
    return "".join(f"{line}\n" for line in lines)


def _section(line: str, number: int, faults: list[Fault]) -> Section | None:
    match = _SECTION.fullmatch(line)
    if not match:
        # Asterisk gives up on this file here and drops every later one (facts, B1).
        faults.append(Fault(number, "a section header that does not close", "write [name]"))
        return None
    name, options, rest = match.groups()
    if rest.strip(_BLANKS):
        faults.append(Fault(number, "text after a section header", "put it on a line of its own"))
    listed = tuple(option.strip(_BLANKS) for option in options.split(",")) if options is not None else ()
    return Section(name, listed, number, [])


def _uncommented(raw: str, block: int) -> tuple[str, int]:
    r"""What Asterisk keeps of a line, and how many block comments are open after it.

    ``\;`` is a semicolon; ``;--`` opens a block unless a third ``-`` follows; ``--;`` closes one; any other
    ``;`` cuts the line. A ``--;`` that closes nothing counts down too, and from then on Asterisk ignores
    every line until a ``;--`` (measured): -1 blocks are open.
    """
    text = raw
    kept = ""
    live = -1 if block else 0  # where the text that counts begins; -1 inside a block
    search = 0
    while (i := text.find(";", search)) >= 0:
        if i > search and text[i - 1] == "\\":
            text = text[: i - 1] + text[i:]
            search = i
        elif text.startswith(";--", i) and text[i + 3 : i + 4] != "-":
            block += 1
            search = i + 3
            if live >= 0:
                kept += text[live:i]
                live = -1
        elif i >= search + 2 and text.startswith("--", i - 2):
            block -= 1
            search = i + 1
            if not block:
                live = search
        elif block:
            search = i + 1
        else:
            text = text[:i]
    return kept + text[live:] if live >= 0 else kept, block
