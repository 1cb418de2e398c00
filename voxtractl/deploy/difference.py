"""The difference of two files as a person reads it: a unified diff without secrets. Pure."""

import re
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from typing import Final

__all__ = ["masked", "unified"]

# Options of pjsip.conf whose value is a secret (res_pjsip documentation: auth).
_SECRET: Final = re.compile(
    r"^(\s*(?:password|md5_cred|password_digest|oauth_secret|refresh_token)\s*=>?\s*).*$", re.M
)
_AROUND: Final = 3  # lines of context


def masked(text: str) -> str:
    """The text with every secret value as stars."""
    return _SECRET.sub(r"\1****", text)


def unified(path: str, old: bytes, new: bytes) -> Iterator[str]:
    """Lines of the unified diff of one file, secrets as stars (a changed one shows as two starred lines)."""
    before, after = _lines(old), _lines(new)
    # difflib is quadratic at worst; a shard of 160 tenants differs in a few lines only.
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    start = max(0, head - _AROUND)
    cut = slice(start, None if tail <= _AROUND else _AROUND - tail)
    hunks = unified_diff(
        before[cut],
        after[cut],
        f"a/{path}" if old else "/dev/null",
        f"b/{path}" if new else "/dev/null",
        lineterm="",
        n=_AROUND,
    )
    for line in hunks:
        if line.startswith("@@"):
            yield _shifted(line, start)
        elif line.startswith(("--- ", "+++ ")):
            yield line
        else:
            yield line[0] + masked(line[1:])


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8", "replace").splitlines()


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many lines are the same from the start."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))


def _shifted(hunk: str, by: int) -> str:
    """A hunk's header with the line numbers of the whole files."""

    def moved(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2]) + by}"

    return re.sub(r"([-+])(\d+)", moved, hunk)
