"""HTTP/1.1 as far as ARI speaks it, without I/O: a request becomes bytes, bytes become an answer.

``client.py`` moves the bytes. Why this is ours and what it saves stands in docs/decisions/0006. One request
is on the way at a time, so nothing may follow an answer. An answer is Asterisk's, or that of a proxy before
it: with a length, chunked, or ended by the connection's end (RFC 9112, section 6.3).
"""

import re
from base64 import b64encode
from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlsplit

from voxtractl.ari.requests import Request
from voxtractl.errors import UsageFault

__all__ = ["AnswerReader", "Server", "base_url", "request_bytes"]

HEAD_MAX: Final = 64 * 1024  # bytes of status line and headers
BODY_MAX: Final = 64 * 1024 * 1024  # bytes of a body; a channel is 400 in the list of all
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,8})(?=[\r; \t])")
_NO_BODY: Final = frozenset({204, 304})


def base_url(url: str) -> str:
    """The URL of an Asterisk without its last slash. Raises UsageFault, which quotes no password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        good = good and not parts.path.rstrip("/").endswith("/ari")
    except ValueError:  # a port above 65535, half an IPv6 address
        good = False
    secret = "@" in url or "?" in url
    if not good or secret or re.search(r"[^!-~]|#", url):
        raise UsageFault(
            f"{'what was given' if secret else repr(url)} is no URL of an Asterisk",
            hint="http or https, host and port without /ari, such as http://127.0.0.1:8088; user and password"
            " stand apart",
        )
    return url.rstrip("/")


class Server:
    """Where the requests go, from a base URL such as ``http://127.0.0.1:8088`` (path prefixes are kept)."""

    def __init__(self, url: str, user: str, password: str) -> None:
        parts = urlsplit(url)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/") + "/ari"
        host = f"[{self.host}]" if ":" in self.host else self.host
        secret = b64encode(f"{user}:{password}".encode()).decode()
        self.headers = f"Host: {host}:{self.port}\r\nAuthorization: Basic {secret}\r\n"


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    # A proof asks thousands of questions that differ in two of ten words; kept ones cost nothing.
    return quote(text, safe="")


def request_bytes(server: Server, request: Request) -> bytes:
    """The request as it goes over the wire; all from outside is percent-encoded or in the JSON body.

    Raises UsageFault for what has no bytes.
    """
    try:
        query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in request.query)
        body = None if request.body is None else request.json().encode()
    except (TypeError, ValueError) as exc:
        raise request.unwritable(exc) from None
    target = f"{server.prefix}{request.path}?{query}" if query else server.prefix + request.path
    head = f"{request.method} {target} HTTP/1.1\r\n{server.headers}"
    if body is None:
        length = "" if request.method in {"GET", "DELETE"} else "Content-Length: 0\r\n"
        return f"{head}{length}\r\n".encode("ascii")
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{kind}\r\n".encode("ascii") + body


class AnswerReader:
    """Reads one answer, in whatever pieces it comes; raises ValueError for what is none."""

    def __init__(self) -> None:
        self._left = bytearray()
        self._length: int | None = None  # of the body; None: until the end of the connection
        self._chunked = False
        self._body = bytearray()
        self.status = 0  # 0 until the head is complete
        self.reusable = False  # whether the connection may carry another request

    @property
    def begun(self) -> bool:
        """Whether a single byte of the answer has come."""
        return bool(self.status or self._left)

    def feed(self, data: bytes) -> bytes | None:
        """More bytes of the answer; the body when it is complete."""
        self._left += data
        while not self.status:
            end = self._left.find(b"\r\n\r\n")
            if end < 0:
                if len(self._left) > HEAD_MAX or not b"HTTP/1.".startswith(self._left[:7]):
                    raise ValueError("it does not begin like HTTP")
                return None
            self._head(bytes(self._left[:end]))
            del self._left[: end + 4]
        if self._chunked:
            return self._chunks()
        if self._length is None:
            self._within(len(self._left))
            return None
        if len(self._left) < self._length:
            return None
        return self._whole(self._length)

    def end(self) -> bytes:
        """The connection has ended; the body, when its end is the end of the connection."""
        if self.status and not self._chunked and self._length is None:
            return bytes(self._left)
        raise ValueError("the connection ended in the middle of the answer")

    def _head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        match = _STATUS.fullmatch(first)
        if match is None:
            raise ValueError("its first line is not that of HTTP/1")
        status = int(match[2])
        if status < 200:
            return  # an interim answer: the real one follows
        headers = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or name != name.strip():
                raise ValueError("a header is not one")
            headers[name.lower()] = value.strip()
        self.status = status
        self._chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        length = headers.get(b"content-length")
        if status in _NO_BODY:
            self._chunked, self._length = False, 0
        elif length is not None and not self._chunked:
            if not length.isdigit():
                raise ValueError("its Content-Length is no number")
            self._length = int(length)
            self._within(self._length)
        closes = headers.get(b"connection", b"").lower()
        persists = match[1] == b"1" or closes == b"keep-alive"
        self.reusable = persists and closes != b"close" and (self._chunked or self._length is not None)

    def _whole(self, length: int) -> bytes:
        if len(self._left) > length:
            raise ValueError("something follows the answer")
        return bytes(self._left)

    def _chunks(self) -> bytes | None:
        while True:
            end = self._left.find(b"\r\n")
            if end < 0:
                self._within(len(self._body))
                return None
            size = _SIZE.match(self._left)
            if size is None:
                raise ValueError("a chunk has no size")
            length = int(size[1], 16)
            if length == 0:
                return self._trailer(end)
            if len(self._left) < end + 2 + length + 2:
                self._within(len(self._body) + length)
                return None
            chunk = self._left[end + 2 : end + 2 + length + 2]
            if not chunk.endswith(b"\r\n"):
                raise ValueError("a chunk is longer than it says")
            self._body += chunk[:-2]
            del self._left[: end + 2 + length + 2]

    def _trailer(self, end: int) -> bytes | None:
        """After the last chunk: an empty line, or trailers and then one."""
        rest = bytes(self._left[end + 2 :])
        last = 0 if rest.startswith(b"\r\n") else rest.find(b"\r\n\r\n") + 2
        if last == 1:  # not there yet
            self._within(len(self._body) + len(rest))
            return None
        if len(rest) > last + 2:
            raise ValueError("something follows the answer")
        return bytes(self._body) if len(rest) == last + 2 else None

    def _within(self, length: int) -> None:
        if length > BODY_MAX:
            raise ValueError("its body is too long")
