"""Keys of the document, as values and as a person writes them; and what a TOML text means. Pure.

Where a key stands in its text is the business of ``layout.py``, which a good document never needs.
"""

import re
from typing import Any, Final

import tomli

__all__ = ["Key", "NotToml", "read", "spell"]

Key = tuple[str | int, ...]  # ("tenants", "acme", "dids", 0)

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class NotToml(Exception):
    """The text cannot be read at all; translated into an error of the document where its file is known."""

    def __init__(self, line: int, col: int, what: str, todo: str) -> None:
        super().__init__(what)
        self.line, self.col, self.what, self.todo = line, col, what, todo


def read(text: str) -> dict[str, Any]:
    """What a text means. Raises NotToml with the place of the first error."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as exc:
        if text.startswith("\ufeff"):
            what = "the file begins with a byte order mark"
            raise NotToml(1, 1, what, "save it as UTF-8 without BOM") from exc
        what = f"this is not TOML: {exc.msg[:1].lower()}{exc.msg[1:]}"
        raise NotToml(exc.lineno, exc.colno, what, "correct this line or the one before") from exc
    except RecursionError as exc:
        what = "this is not TOML: brackets nested too deep"
        raise NotToml(1, 1, what, "remove the brackets") from exc
    except ValueError as exc:  # an integer of more than 4300 digits
        raise NotToml(1, 1, "a number has too many digits", "correct the number") from exc


def spell(key: Key) -> str:
    """The key as a person writes it: ``tenants.acme.dids[0]``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        if not _BARE.fullmatch(part):
            part = '"' + "".join(_escaped(c) for c in part[:80]) + '"'
        text += f".{part}" if text else part
    return text


def _escaped(char: str) -> str:
    """A key may hold anything, a line break too; an error stays on one line."""
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\u{ord(char):04X}"
