"""The client over real sockets: TLS, reuse, servers that misbehave. Asterisk: tests/live/test_proof.py."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.files import no_more_files
from voxtractl.ari import client, requests
from voxtractl.ari.client import AT_ONCE, CONNECTIONS, STOP_AGAIN, ARIClient, stop_playback
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriError, AriUnreachable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Site:
    """A server that gives ``answer`` to every request; counts connections and those open at once."""

    def __init__(self, answer: bytes = OK, *, closes: bool = False) -> None:
        self.answer, self.closes = answer, closes
        self.connections = self.open = self.most = 0
        self.serving: list[asyncio.Task[None]] = []
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.append(task)
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while asked := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(asked)
                writer.write(self.answer)
                await writer.drain()
                if self.closes:
                    break
        self.open -= 1
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    @asynccontextmanager
    async def up(self, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context)
        async with server:
            scheme = "https" if context else "http"
            yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*self.serving)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_one_connection_carries_many_requests() -> None:
    site = Site()
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        for _ in range(20):
            assert await ari.request(requests.info()) == {}
        assert site.connections == 1


async def test_many_requests_at_once_share_a_few_connections() -> None:
    site = Site()
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        answers = await ari.ask_all([requests.info()] * 200)
        assert {a.status for a in answers} == {200}
        assert site.most <= AT_ONCE


async def test_slow_answers_hold_up_nobody_else() -> None:
    site = Site(b"")
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        slow = [asyncio.create_task(ari.request(requests.info())) for _ in range(AT_ONCE * 2)]
        await until(lambda: len(site.asked) == len(slow))
        site.answer = OK
        assert await ari.request(requests.info()) == {}
        assert not any(task.done() for task in slow)
        await ari.close()
        for ended in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(ended, AriUnreachable)
            assert "this client was closed" in str(ended)


async def test_no_more_connections_than_fit_wait_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than its backlog the kernel drops, and they come back after a second."""
    monkeypatch.setattr(client, "TAKEN", 60.0)
    site = Site(b"")
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        asking = [asyncio.create_task(ari.request(requests.info())) for _ in range(AT_ONCE * 2)]
        await until(lambda: len(site.asked) == AT_ONCE)
        assert await asyncio.sleep(0.05, site.connections) == AT_ONCE
        site.answer = OK
        asking[0].cancel()  # its connection ends: there is room for one more, whose answer makes room again
        ended = await asyncio.gather(*asking[AT_ONCE:])
        assert ended == [{}] * AT_ONCE
        for task in asking[:AT_ONCE]:
            task.cancel()


async def test_the_wait_for_a_connection_counts_and_nothing_is_sent_after_the_close() -> None:
    site = Site(b"")
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        slow = [asyncio.create_task(ari.request(requests.info())) for _ in range(CONNECTIONS)]
        await until(lambda: len(site.asked) == CONNECTIONS)
        with pytest.raises(AriUnreachable, match="no answer within"):
            await ari.ask(requests.info(), timeout=0.05)
        waiting = [asyncio.create_task(ari.originate("Local/1@x", app="a")) for _ in range(3)]
        await asyncio.sleep(0)
        await ari.close()
        for ended in await asyncio.gather(*slow, *waiting, return_exceptions=True):
            assert isinstance(ended, AriUnreachable)
            assert "this client was closed" in str(ended)
        assert await asyncio.sleep(0.05, site.most) == CONNECTIONS
        assert len(site.asked) == CONNECTIONS


async def test_a_connection_the_server_wants_to_end_is_not_used_again() -> None:
    site = Site(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), closes=True)
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        for _ in range(3):
            assert await ari.request(requests.info()) == {}
        assert site.connections == 3


HALVES = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\n", b"nonsense\r\n\r\n"]


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\n", b"nonsense\r\n\r\n"],
)
async def test_half_an_answer_or_none_is_an_error_and_not_the_next_ones_answer(answer: bytes) -> None:
    site = Site(answer, closes=True)
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        with pytest.raises(AriError, match="no valid HTTP answer"):
            await ari.request(requests.info())
        site.answer = OK
        assert await ari.request(requests.info()) == {}


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000], ids=["a page", "brackets"])
async def test_an_answer_that_is_not_of_ari_asks_whether_this_is_ari(body: bytes) -> None:
    site = Site(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        with pytest.raises(AriError, match="was refused with 404: no reason given") as told:
            await ari.request(requests.ping())
        assert "is this Asterisk's HTTP port" in str(told.value.hint)


async def test_without_a_free_file_its_limit_is_named() -> None:
    site = Site()
    async with site.up() as url, ARIClient(url, "a", "b") as ari:
        with no_more_files(), pytest.raises(AriUnreachable, match="too many open files") as told:
            await ari.request(requests.ping())
        assert "LimitNOFILE" in str(told.value.hint)
        assert await ari.request(requests.ping()) == {}


async def test_a_name_that_nobody_knows_is_told_as_such() -> None:
    async with ARIClient("http://nobody.invalid:8088", "a", "b") as ari:
        with pytest.raises(AriUnreachable) as told:
            await ari.request(requests.info())
    assert "DNS" in str(told.value.hint)


async def test_a_request_given_up_leaves_no_answer_for_the_next() -> None:
    site = Site(b"")
    async with site.up() as url, ARIClient(url, "a", "b", timeout=0.1) as ari:
        with pytest.raises(AriUnreachable, match="no answer within"):
            await ari.request(requests.info())
        site.answer = OK
        assert await ari.request(requests.info()) == {}


async def test_the_first_error_ends_all_questions_and_is_raised_as_itself() -> None:
    async with ARIClient("http://127.0.0.1:9", "a", "b") as ari:
        with pytest.raises(AriUnreachable):
            await ari.ask_all([requests.info()] * 50)


NOT_YET = Answer(500, {"message": "Could not stop playback"})  # captured from Asterisk 22.10.1


@pytest.mark.parametrize(
    ("answers", "told", "times"),
    [
        ([Answer(204)], 204, 1),
        ([NOT_YET, NOT_YET, Answer(204)], 204, 3),
        ([NOT_YET, Answer(404, {"message": "Playback not found"})], 404, 2),
        ([NOT_YET], 500, len(STOP_AGAIN) + 1),
    ],
)
async def test_a_sound_that_is_about_to_begin_is_asked_to_stop_again(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer], told: int, times: int
) -> None:
    monkeypatch.setattr("voxtractl.ari.client.STOP_AGAIN", (0.0,) * len(STOP_AGAIN))
    asked: list[Request] = []

    async def ask(request: Request) -> Answer:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    assert (await stop_playback(ask, "p1")).status == told
    assert asked == [requests.stop_playback("p1")] * times


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[], tuple[Path, ssl.SSLContext]]:
    def make() -> tuple[Path, ssl.SSLContext]:
        """A certificate for this machine that signed itself: its file, and a server's context with it."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a lab")])
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        built = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([address, x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = tmp_path / "server.pem"
        pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        private = tmp_path / "server.key"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, private)
        return pem, context

    return make


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_https_is_verified(
    host: str, certificate: Callable[[], tuple[Path, ssl.SSLContext]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, context = certificate()
    site = Site()
    async with site.up(context) as url:
        async with ARIClient(url, "a", "b") as ari:
            with pytest.raises(AriUnreachable, match="its certificate is not trusted: self") as told:
                await ari.request(requests.info())
            assert "SSL_CERT_FILE" in str(told.value.hint)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        async with ARIClient(url.replace("127.0.0.1", host), "a", "b") as ari:
            assert await ari.request(requests.info()) == {}
    assert site.connections == 1
