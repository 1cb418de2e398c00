"""Writes voxtractl/ari/events.py from the api-docs of a running Asterisk:

    python -m tests.tools.ari_events URL USER PASSWORD-FILE

A lab says all three: ``voxtractl lab up``. ``tests/live/test_ari_events.py`` compares the file with what the
lab's Asterisk serves. Only names and types are taken over, no description.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any, Final

from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Request
from voxtractl.settings import Secret

__all__ = ["TARGET", "main", "served"]

TARGET: Final = Path(__file__).parents[2] / "voxtractl" / "ari" / "events.py"

Models = Mapping[str, Mapping[str, Any]]

# Swagger's types as Asterisk writes them; everything else is the name of another model.
TYPES: Final = {
    "string": "str",
    "Date": "str",
    "int": "int",
    "long": "int",
    "double": "float",
    "boolean": "bool",
    "object": "dict[str, Any]",
}

# What may stand in an event as a subject, and the column of the table it goes to.
SUBJECTS: Final = {
    "Channel": "channels",
    "Bridge": "bridges",
    "Playback": "playbacks",
    "LiveRecording": "recordings",
}

HEAD: Final = '''"""The events of ARI, and where in them channels, bridges, playbacks, recordings stand. Pure.

Made from Asterisk's own api-docs by ``tests/tools/ari_events.py``; change that and run it again:
``python -m tests.tools.ari_events URL USER PASSWORD-FILE``. The shapes are for the type checker, which knows
an event by its ``type``; at run time an event is the dict that came out of the JSON.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypeAlias, TypedDict

'''

TABLE: Final = '''

class Places(NamedTuple):
    """The keys of an event under which subjects of each kind stand; a dot goes one level down."""

    channels: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    playbacks: tuple[str, ...] = ()
    recordings: tuple[str, ...] = ()


# Channels that are merely members of a bridge are not listed: nothing happened to them.
PLACES: Final[Mapping[str, Places]] = {
'''

TAIL: Final = '''}

_NOWHERE: Final = Places()


def channels_of(event: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the channels an event is about, each once, in the order of the table.

    A playback or a recording is about the channel it is played to or made of. An unknown type, and one that
    names no channel (a bridge, a device), gives none.
    """
    places = PLACES.get(event["type"], _NOWHERE)
    found = [_at(event, f"{place}.id") for place in places.channels]
    for place in places.playbacks + places.recordings:
        kind, _, target = _at(event, f"{place}.target_uri").partition(":")
        found.append(target if kind == "channel" else "")
    return tuple(dict.fromkeys(filter(None, found)))


def _at(event: Mapping[str, Any], path: str) -> str:
    """The text at a path; "" when something on the way is not there."""
    found: Any = event
    for key in path.split("."):
        if not isinstance(found, dict):
            return ""
        found = found.get(key)
    return found if isinstance(found, str) else ""
'''


async def _models(ari: ARIClient) -> Models:
    """Every model of every api-doc this Asterisk serves, by name."""
    listed = await ari.request(Request("GET", "/api-docs/resources.json"))
    found: dict[str, Mapping[str, Any]] = {}
    for entry in listed["apis"]:
        path = entry["path"].replace("{format}", "json")
        found |= (await ari.request(Request("GET", path))).get("models", {})
    return found


def _module_text(models: Models) -> str:
    """The whole file, as ruff formats it."""
    return _formatted("".join(_lines(models)))


def _lines(models: Models) -> Iterator[str]:
    events = sorted(models["Event"]["subTypes"])
    parts = _reachable(models, events)
    yield HEAD
    names = ["PLACES", "Event", "Places", "channels_of", *events, *parts]
    yield f"__all__ = {sorted(names, key=_as_ruff_sorts)!r}\n"
    for name in parts:
        yield _part(name, models[name])
    yield f"\n\nclass _Event(TypedDict):\n{_fields(models['Message'], skip='type')}{_fields(models['Event'])}"
    for name in events:
        yield f"\n\nclass {name}(_Event):\n    type: Literal[{name!r}]\n{_fields(models[name])}"
    yield f"\n\nEvent: TypeAlias = (\n{' | '.join(events)}\n)\n"
    yield TABLE
    for name in events:
        yield f"    {name!r}: {_places(models, name)},\n"
    yield TAIL


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions (ruff's RUF022)."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def _used(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields of a model and their types, those inside of lists too."""
    for name, field in model["properties"].items():
        yield name, field["type"].removeprefix("List[").removesuffix("]")


def _reachable(models: Models, names: list[str]) -> list[str]:
    """The models that the named ones are made of, parts before the whole."""
    found: list[str] = []

    def visit(name: str) -> None:
        for _, kind in _used(models[name]):
            if kind in models and kind not in found:
                visit(kind)
                found.append(kind)

    for name in names:
        visit(name)
    return found


def _part(name: str, model: Mapping[str, Any]) -> str:
    if any(iskeyword(field) for field in model["properties"]):  # TextMessage has a `from`
        fields = ", ".join(f"{field!r}: {_type(kind)}" for field, kind in model["properties"].items())
        return f"\n\n{name} = TypedDict({name!r}, {{{fields}}})\n"
    return f"\n\nclass {name}(TypedDict):\n{_fields(model)}"


def _fields(model: Mapping[str, Any], *, skip: str = "") -> str:
    fields = model["properties"].items()
    return "".join(f"    {name}: {_type(field)}\n" for name, field in fields if name != skip)


def _type(field: Mapping[str, Any]) -> str:
    # A field with a list of allowed values stays a string: a playback may be "paused", which its list lacks.
    kind = field["type"].removeprefix("List[").removesuffix("]")
    text = TYPES.get(kind, kind)
    if kind != field["type"]:
        text = f"list[{text}]"
    return text if field.get("required") else f"NotRequired[{text}]"


def _places(models: Models, event: str) -> str:
    """The call of Places for one event; parts such as a ReferTo are looked into."""
    columns: dict[str, list[str]] = {column: [] for column in SUBJECTS.values()}

    def visit(model: str, prefix: str) -> None:
        for name, kind in _used(models[model]):
            if kind in SUBJECTS:
                columns[SUBJECTS[kind]].append(prefix + name)
            elif kind in models:
                visit(kind, f"{prefix}{name}.")

    visit(event, "")
    words = [f"{column}={tuple(names)!r}" for column, names in columns.items() if names]
    return f"Places({', '.join(words)})"


def _formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


async def served(url: str, user: str, password: str | Secret) -> str:
    """The file as it must be for the Asterisk at ``url``."""
    async with ARIClient(url, user, password) as ari:
        return _module_text(await _models(ari))


def main(url: str, user: str, password_file: str) -> None:
    password = Path(password_file).read_text(encoding="utf-8").strip()
    TARGET.write_text(asyncio.run(served(url, user, password)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
