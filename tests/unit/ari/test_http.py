"""The HTTP of ARI: bytes captured from Asterisk 22.10.1, every way to frame an answer, and garbage."""

import re
from http.client import HTTPResponse
from io import BytesIO
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari.client import ARIClient
from voxtractl.ari.http import AnswerReader, Server, request_bytes
from voxtractl.ari.requests import Request
from voxtractl.errors import UsageFault

# As Asterisk sent them.
HEAD = (
    b"Server: Asterisk/22.10.1+dfsg+~cs6.17.60671434-1\r\nDate: Mon, 23 Nov 2026 07:50:21 GMT\r\n"
    b"Cache-Control: no-cache, no-store\r\n"
)
JSON = b"Content-type: application/json\r\n"
CAPTURED = {
    "a variable": (
        b"HTTP/1.1 200 OK\r\n" + HEAD + JSON + b'Content-Length: 12\r\n\r\n{"value":""}',
        200,
        b'{"value":""}',
    ),
    "a label that is not live": (
        b"HTTP/1.1 404 Not Found\r\n"
        + HEAD
        + JSON
        + b'Content-Length: 46\r\n\r\n{"message":"Requested label can not be found"}',
        404,
        b'{"message":"Requested label can not be found"}',
    ),
    "a reload": (b"HTTP/1.1 204 No Content\r\n" + HEAD + b"Content-Length: 0\r\n\r\n", 204, b""),
    "no password": (
        b"HTTP/1.1 401 Unauthorized\r\n"
        + HEAD
        + b'WWW-Authenticate: Basic realm="Asterisk REST Interface"\r\n'
        + JSON
        + b'Content-Length: 37\r\n\r\n{"message":"Authentication required"}',
        401,
        b'{"message":"Authentication required"}',
    ),
}


def read(*pieces: bytes) -> tuple[int, bytes | None, bool]:
    reader = AnswerReader()
    body = None
    for piece in pieces:
        assert body is None
        body = reader.feed(piece)
    return reader.status, body, reader.reusable


@pytest.mark.parametrize("name", CAPTURED)
def test_what_asterisk_sent_is_read_wherever_it_is_cut(name: str) -> None:
    sent, status, body = CAPTURED[name]
    assert read(sent) == (status, body, True)
    for cut in range(1, len(sent)):
        assert read(sent[:cut], sent[cut:]) == (status, body, True)
    assert read(*(sent[i : i + 1] for i in range(len(sent)))) == (status, body, True)


def framed(body: bytes, how: str, sizes: list[int]) -> bytes:
    if how == "length":
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    if how == "until the end":
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    chunks = b""
    rest = body
    for size in sizes:
        chunk, rest = rest[:size], rest[size:]
        chunks += b"%x;part=1\r\n" % len(chunk) + chunk + b"\r\n" if chunk else b""
    chunks += b"%X\r\n" % len(rest) + rest + b"\r\n" if rest else b""
    end = b"0\r\n\r\n" if how == "chunked" else b"0\r\nX-Sum: 1\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + end


@given(
    body=st.binary(max_size=200),
    how=st.sampled_from(["length", "chunked", "chunked with a trailer", "until the end"]),
    sizes=st.lists(st.integers(1, 50), max_size=5),
    data=st.data(),
)
def test_every_framing_is_read_as_pythons_own_reader_does(
    body: bytes, how: str, sizes: list[int], data: st.DataObject
) -> None:
    sent = framed(body, how, sizes)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=8)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    reader = AnswerReader()
    found = None
    for piece in pieces:
        found = reader.feed(piece)
    if found is None:
        assert how == "until the end"
        found = reader.end()
    assert found == body == python_reads(sent)
    assert reader.reusable == (how != "until the end")


class Socket:
    def __init__(self, sent: bytes) -> None:
        self.sent = sent

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self.sent)


def python_reads(sent: bytes) -> bytes:
    response = HTTPResponse(Socket(sent))  # type: ignore[arg-type]
    response.begin()
    return response.read()


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4))
def test_garbage_is_a_value_error_or_waits_for_more(pieces: list[bytes]) -> None:
    reader = AnswerReader()
    try:
        for piece in pieces:
            if reader.feed(piece) is not None:
                return
    except ValueError:
        return


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 " + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_told(sent: bytes) -> None:
    with pytest.raises(ValueError):
        read(sent)


def test_an_answer_that_breaks_off_is_told() -> None:
    for sent in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"):
        reader = AnswerReader()
        reader.feed(sent)
        assert reader.begun == bool(sent)
        with pytest.raises(ValueError, match="middle"):
            reader.end()


def test_an_interim_answer_is_not_the_answer() -> None:
    sent, status, body = CAPTURED["a variable"]
    assert read(b"HTTP/1.1 100 Continue\r\n\r\n" + sent) == (status, body, True)


def test_an_old_or_closing_server_gets_a_new_connection_each_time() -> None:
    assert read(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")[2] is False
    assert read(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")[2] is True
    assert read(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")[2] is False


TEXT = st.text(max_size=20)


@given(
    path=st.sampled_from(["/channels", "/asterisk/info"]), query=st.lists(st.tuples(TEXT, TEXT), max_size=4)
)
def test_a_request_is_one_head_whatever_its_values_hold(path: str, query: list[tuple[str, str]]) -> None:
    server = Server("http://127.0.0.1:8088", "voxtractl", "secret")
    sent = request_bytes(server, Request("POST", path, tuple(query)))
    assert sent.count(b"\r\n\r\n") == 1
    first = sent.split(b"\r\n")[0].decode()
    match = re.fullmatch(r"POST (\S+) HTTP/1\.1", first)
    assert match is not None
    parts = urlsplit(match[1])
    assert parts.path == "/ari" + path
    assert parse_qsl(parts.query, keep_blank_values=True, errors="surrogatepass") == query


def test_a_request_names_its_host_its_user_and_its_body() -> None:
    server = Server("http://[::1]:8088/pbx/", "voxtractl", "pa:ss é")
    sent = request_bytes(server, Request("POST", "/channels", (), {"a": "é\r\n"}))
    assert sent.startswith(b"POST /pbx/ari/channels HTTP/1.1\r\nHost: [::1]:8088\r\nAuthorization: Basic ")
    head, body = sent.split(b"\r\n\r\n")
    assert body == '{"a": "é\\r\\n"}'.encode()
    assert b"Content-Length: %d" % len(body) in head


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("http://127.0.0.1:8088", "127.0.0.1", 8088, False),
        ("http://pbx1.example.net", "pbx1.example.net", 80, False),
        ("https://pbx1.example.net", "pbx1.example.net", 443, True),
        ("https://[::1]:8089/", "::1", 8089, True),
    ],
)
def test_a_url_is_a_server(url: str, host: str, port: int, tls: bool) -> None:
    server = Server(url, "a", "b")
    assert (server.host, server.port, server.tls, server.prefix) == (host, port, tls, "/ari")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8088",
        "localhost",
        "ftp://host",
        "http://",
        "http://:8088",
        "http://host:99999",
        "http://host:port",
        "http://host:0",
        "http://host:8088/ari",
        "http://host/pbx/ari/",
        "http://[::1",
        "http://host/x y",
        "http://host\r\nX-More: 1",
        "http://host?key=SECRET",
        "http://bob:SECRET@host",
        "bob:SECRET@host",
        "http://bob:SEC@RET@host:99999",
    ],
)
async def test_what_is_no_url_is_told_without_a_password(url: str) -> None:
    with pytest.raises(UsageFault, match="is no URL of an Asterisk") as told:
        await ARIClient(url, "user", "password").open()
    assert "SEC" not in str(told.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8088/", "https://[::1]:8089/pbx", "http://pbx.example"])
def test_a_url_loses_its_last_slash(url: str) -> None:
    assert ARIClient(url, "user", "password").url == url.rstrip("/")
