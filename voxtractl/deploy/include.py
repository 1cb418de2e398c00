"""The lines voxtractl needs in Asterisk's own files, and nothing else. Pure, and bytes to bytes.

    ; >>> voxtractl: …                           opening mark
    #include voxtractl/current/extensions.conf   the index of the current release
    [voxtractl-loaded](voxtractl-end)            fails the whole file when any generated file was not read
    ; <<< voxtractl: …                           closing mark

The block goes to the end of the file. Whatever follows a section header belongs to that section: above the
operator's lines, the included files would take them into their last context. And a template must be read
before it is used, so the line with ``voxtractl-end`` stands below the include.

Asterisk's files are often Latin-1 or worse, so they are never decoded. Adding and removing gives the same
bytes back: the block takes the file's line ends, and when the last line had none, the block has none either.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal

from voxtractl import naming

__all__ = ["State", "has_lines", "with_lines", "without_lines"]

State = Literal["present", "absent", "altered"]

_OPEN: Final = b"; >>> voxtractl: the tenants' files; taken out by `voxtractl node init --remove`"
_CLOSE: Final = b"; <<< voxtractl: leave this block at the end of the file"

_OPENS: Final = re.compile(rb"\s*;\s*>>> voxtractl\b.*")
_CLOSES: Final = re.compile(rb"\s*;\s*<<< voxtractl\b.*")
_LOADED: Final = re.compile(rb"\s*;?\s*\[" + naming.LOADED_CONTEXT.encode() + rb"\].*")
_INCLUDE: Final = re.compile(
    rb"\s*;?\s*#\s*(?:try)?include\s+[\"<]?\S*\bcurrent/(?:"
    + "|".join(naming.KINDS).encode()
    + rb")\.conf\b.*"
)
_EMPTY: Final = re.compile(rb"\s*(?:;(?!--).*)?")


def with_lines(text: bytes, kind: str, prefix: str) -> bytes:
    """``text`` with the block of ``kind`` as its end; what was left of an older block is replaced.

    ``prefix`` is the store as Asterisk's includes name it (``voxtractl``).
    """
    if has_lines(text, kind, prefix) == "present":
        return text
    text = without_lines(text)
    eol = _line_end(text)
    block = eol.join(_block(kind, prefix))
    if text.endswith(b"\n") or not text:
        return text + block + eol
    return text + eol + block


def without_lines(text: bytes) -> bytes:
    """``text`` without any line of ours, whole block or half of one; foreign lines in between stay."""
    lines = text.split(b"\n")
    drop = {index for start, end in _remains(lines) for index in range(start, end) if _ours(lines[index])}
    if not drop:
        return text
    first, last = min(drop), len(lines) - 1
    kept = b"\n".join(line for index, line in enumerate(lines) if index not in drop)
    if last in drop and first > 0 and len(drop) == last - first + 1:
        # The block had no line end because the file had none: then the one above it is ours as well.
        return kept[:-1] if lines[first].endswith(b"\r") and kept.endswith(b"\r") else kept
    return kept


def has_lines(text: bytes, kind: str, prefix: str) -> State:
    """``present``: exactly one whole block, and no stray line below it that would belong to our section.
    ``altered``: something of ours is there, but not that."""
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    remains = list(_remains(lines))
    if not remains:
        return "absent"
    start, end = remains[0]
    if len(remains) > 1 or lines[start:end] != _block(kind, prefix):
        return "altered"
    below = next((line for line in lines[end:] if not _EMPTY.fullmatch(line)), b"[")
    return "present" if below.lstrip().startswith((b"[", b"#")) else "altered"


def _block(kind: str, prefix: str) -> list[bytes]:
    return [
        _OPEN,
        f"#include {prefix}/current/{kind}.conf".encode(),
        f"[{naming.LOADED_CONTEXT}]({naming.END_CONTEXT})".encode(),
        _CLOSE,
    ]


def _line_end(text: bytes) -> bytes:
    last = text.rfind(b"\n")
    return b"\r\n" if last > 0 and text[last - 1 : last] == b"\r" else b"\n"


def _ours(line: bytes) -> bool:
    return any(pattern.fullmatch(line) for pattern in (_OPENS, _CLOSES, _LOADED, _INCLUDE))


def _remains(lines: list[bytes]) -> Iterator[tuple[int, int]]:
    """Where our lines stand, as (first, behind the last): from an opening mark to its closing one, else runs
    of our lines around a mark or the loaded line. An include alone may be somebody else's."""
    index = 0
    while index < len(lines):
        if not _ours(lines[index]):
            index += 1
            continue
        end = index + 1
        while end < len(lines) and _ours(lines[end]) and not _OPENS.fullmatch(lines[end]):
            end += 1
        if _OPENS.fullmatch(lines[index]):
            end = _closed(lines, index) or end
        if any(not _INCLUDE.fullmatch(line) for line in lines[index:end] if _ours(line)):
            yield index, end
        index = end


def _closed(lines: list[bytes], start: int) -> int | None:
    """Behind the closing mark that belongs to the opening one at ``start``; None when there is none."""
    for index in range(start + 1, len(lines)):
        if _OPENS.fullmatch(lines[index]):
            return None
        if _CLOSES.fullmatch(lines[index]):
            return index + 1
    return None
