"""Changes to the document's text that touch nothing else: comments, order, blanks and line ends stay. Pure.

The layout says where the tenant's own statements are; only those lines are replaced, added or cut, and
tomlkit spells the new values. (tomlkit editing the whole file puts new keys below the comment of the *next*
tenant and takes long for a large file; docs/decisions/0003-toml.md.) Every result is read again and compared
with what was asked for; a text that cannot be changed safely is refused, not guessed at.
"""

from collections.abc import Mapping
from typing import Any, Final

from voxtractl.errors import DocumentError
from voxtractl.model.keys import Key, NotToml, read, spell
from voxtractl.model.layout import Layout, Statement, scan

__all__ = ["add_tenant", "has_statements", "remove_tenant", "set_values"]

_INLINE: Final = frozenset({"fallback"})  # tables that read best on one line


def add_tenant(text: str, slug: str, values: Mapping[str, Any], *, file: str = "") -> str:
    """The text with a new tenant at its end. Raises DocumentError when the text cannot take it."""
    key: Key = ("tenants", slug)
    before = _read(text, file)
    end = _line_end(text)
    gap = "" if not text else end if text.endswith("\n") else end * 2
    if text.endswith((end * 2, "\n\n")):
        gap = ""
    return _checked(before, text + gap + _section(key, values, end), {key: values}, file)


def set_values(text: str, slug: str, values: Mapping[str, Any], *, file: str = "") -> str:
    """The text with ``values`` set at one tenant: dotted key → value, None removes the key.

    ``{"trunk.host": "sip.example", "max_channels": None}``. Raises DocumentError when it cannot be done.
    """
    changes: dict[Key, Any] = {("tenants", slug, *dotted.split(".")): v for dotted, v in values.items()}
    before, new = _read(text, file), text
    for key, value in changes.items():
        new = _unset(new, key) if value is None else _set(new, key, value)
    return _checked(before, new, changes, file)


def remove_tenant(text: str, slug: str, *, file: str = "") -> str:
    """The text without this tenant and the comment right above it."""
    key: Key = ("tenants", slug)
    before = _read(text, file)
    return _checked(before, _unset(text, key), {key: None}, file)


def has_statements(text: str) -> bool:
    """Whether the text says anything, comments aside."""
    return bool(scan(text).statements)


# --- one change -------------------------------------------------------------------------------------------


def _set(text: str, key: Key, value: Any) -> str:
    layout = scan(text)
    if key in layout.values:
        start, end = layout.values[key]
        return text[:start] + _spelled(value) + text[end:]
    if key in layout.places:  # a table of its own: written anew
        return _set(_unset(text, key), key, value)
    return _insert(text, layout, key, value)


def _insert(text: str, layout: Layout, key: Key, value: Any) -> str:
    """Add a key that is not there yet."""
    parent, name = key[:-1], str(key[-1])
    if parent in layout.values:  # inside an inline table: that one value is written anew
        start, end = layout.values[parent]
        return text[:start] + _spelled({**_value(text[start:end]), name: value}) + text[end:]
    as_section = isinstance(value, Mapping) and name not in _INLINE
    at = _header_of(layout, parent)
    if at is not None and not as_section:
        return _after(
            text, layout.statements[_last_of_section(layout, at)], f"{spell((name,))} = {_spelled(value)}"
        )
    if not as_section and (dotted := _dotted(layout, parent)) is not None:
        statement, base = dotted
        return _after(text, statement, f"{spell(key[len(base) :])} = {_spelled(value)}")
    if parent in layout.places or len(parent) <= 2:  # the tenant's tables are there: a section below them
        section, content = (key, value) if as_section else (parent, {name: value})
        last = [s for s in layout.statements if s.key[:2] == key[:2]][-1]
        last = last._replace(end=last.end + len(_own_comment(text[last.end :])))
        gap = _line_end(text)
        return _after(text, last, gap + _section(section, content, gap).rstrip("\r\n"), indent=False)
    return _insert(text, layout, parent, {name: value})


def _unset(text: str, key: Key) -> str:
    layout = scan(text)
    size = len(key)
    runs: list[list[Statement]] = []
    section: Key = ()
    broken = True
    for statement in layout.statements:
        if statement.header:
            section = statement.key
        inside = statement.key[:size] == key or section[:size] == key
        if inside and broken:
            runs.append([])
        if inside:
            runs[-1].append(statement)
        broken = not inside
    if runs:
        for run in reversed(runs):
            text = _cut(text, run)
        return text
    parent = key[:-1]
    while parent and parent not in layout.values:
        parent = parent[:-1]
    if not parent or key not in layout.places:
        return text  # nothing to remove
    start, end = layout.values[parent]
    return text[:start] + _spelled(_changed(_value(text[start:end]), key[len(parent) :], None)) + text[end:]


def _cut(text: str, run: list[Statement]) -> str:
    """Cut whole lines, with the comment right above a header and without leaving two gaps behind."""
    start, end = run[0].start, run[-1].end
    if run[0].header:
        while (line := _line_before(text, start)).strip().startswith("#"):
            start -= len(line)
        end += len(_own_comment(text[end:]))
        before, after = text[:start], text[end:]
        if not after.strip() or after.lstrip(" \t").startswith(("\n", "\r\n")):
            while before.endswith("\n") and not _line_before(before, len(before)).strip() and before:
                before = before[: len(before) - len(_line_before(before, len(before)))]
            if not before:
                after = after.lstrip("\r\n")
        return before + after
    return text[:start] + text[end:]


def _own_comment(rest: str) -> str:
    """Comment lines that follow a section at once and end in a gap: they speak of that section."""
    taken = ""
    for line in rest.splitlines(keepends=True):
        if not line.strip():
            return taken
        if not line.lstrip().startswith("#"):
            return ""
        taken += line
    return taken


def _line_before(text: str, offset: int) -> str:
    return text[text.rfind("\n", 0, max(offset - 1, 0)) + 1 : offset]


def _header_of(layout: Layout, key: Key) -> int | None:
    return next((i for i, s in enumerate(layout.statements) if s.header and s.key == key), None)


def _last_of_section(layout: Layout, header: int) -> int:
    last = header
    while last + 1 < len(layout.statements) and not layout.statements[last + 1].header:
        last += 1
    return last


def _dotted(layout: Layout, parent: Key) -> tuple[Statement, Key] | None:
    """The last ``trunk.host = …`` of a table that is written with dotted keys, and the section it is in."""
    section: Key = ()
    found = None
    for statement in layout.statements:
        if statement.header:
            section = statement.key
        elif statement.key[: len(parent)] == parent and len(section) < len(parent):
            found = statement, section
    return found


def _after(text: str, statement: Statement, line: str, *, indent: bool = True) -> str:
    """A new line below a statement, indented like it."""
    end = _line_end(text)
    first = text[statement.start : statement.end]
    blank = first[: len(first) - len(first.lstrip(" \t"))] if indent else ""
    joint = "" if text[: statement.end].endswith("\n") else end
    return text[: statement.end] + joint + blank + line + end + text[statement.end :]


# --- spelling ---------------------------------------------------------------------------------------------


def _section(key: Key, values: Mapping[str, Any], end: str) -> str:
    """``[key]`` with its values, then its tables as sections below; ends with a line end."""
    tables = {k: v for k, v in values.items() if isinstance(v, Mapping) and k not in _INLINE}
    lines = [f"{spell((k,))} = {_spelled(v)}" for k, v in values.items() if k not in tables]
    blocks = [end.join([f"[{spell(key)}]", *lines]) + end] if lines or not tables else []
    blocks += [_section((*key, k), v, end) for k, v in tables.items()]
    return end.join(blocks)


def _spelled(value: Any) -> str:
    """A value as TOML, on one line."""
    import tomlkit

    if isinstance(value, Mapping):
        if not value:
            return "{}"
        return "{ " + ", ".join(f"{spell((str(k),))} = {_spelled(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_spelled(v) for v in value) + "]"
    spelled: str = tomlkit.item(value).as_string()
    return spelled


def _line_end(text: str) -> str:
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def _value(spelled: str) -> Any:
    return read(f"value = {spelled}")["value"]


# --- the proof --------------------------------------------------------------------------------------------


def _read(text: str, file: str) -> dict[str, Any]:
    try:
        return read(text)
    except NotToml as exc:
        raise DocumentError(
            exc.what, file=file or "the document", line=exc.line, col=exc.col, hint=exc.todo
        ) from exc


def _checked(before: dict[str, Any], after: str, changes: Mapping[Key, Any], file: str) -> str:
    """``after``, if it says what was there before plus the changes, and nothing else."""
    wanted = before
    for key, value in changes.items():
        wanted = _changed(wanted, key, value)
    try:
        found = read(after)
    except NotToml as exc:
        raise _unsafe(changes, file) from exc
    if found != wanted and _pruned(found) != _pruned(wanted):
        raise _unsafe(changes, file)
    return after


def _unsafe(changes: Mapping[Key, Any], file: str) -> DocumentError:
    keys = ", ".join(spell(key) for key in changes)
    return DocumentError(
        f"{keys} cannot be changed here without touching other lines",
        file=file or "the document",
        hint="edit this tenant by hand, then run `voxtractl config check`; nothing was written",
    )


def _changed(value: Any, key: Key, new: Any) -> Any:
    """A copy of a table with one key set, or removed when ``new`` is None."""
    if not key:
        return new
    table = dict(value) if isinstance(value, dict) else {}
    name = str(key[0])
    if len(key) == 1 and new is None:
        table.pop(name, None)
    elif len(key) > 1 and new is None and not isinstance(table.get(name), dict):
        return table
    else:
        table[name] = _changed(table.get(name), key[1:], new)
    return table


def _pruned(value: Any) -> Any:
    """Without empty tables inside a tenant: cutting the last key of a table cuts the table."""
    if isinstance(value, (list, tuple)):
        return [_pruned(v) for v in value]
    if not isinstance(value, Mapping):
        return value
    return {k: p for k, v in value.items() if (p := _pruned(v)) != {}}
