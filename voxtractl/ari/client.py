"""The door to Asterisk's REST interface over HTTP keep-alive. What is asked stands in ``requests.py``.

Foreign errors are translated here and nowhere else. Every request has a timeout. Connections are dropped
before Asterisk drops them (its keep-alive ends at 15 s, ours at 10 s), else reuse races with its close.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from voxtractl.ari import requests
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriAuthFailed, AriError, AriUnreachable, BadRequest, Conflict, NotFound
from voxtractl.settings import Secret

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp import ClientSession

__all__ = ["ARIClient"]

KEEP_ALIVE: Final = 10.0  # seconds; Asterisk's session_keep_alive is 15 s
# At once to one Asterisk. It listens with a backlog of 10 (`ss -ltn`): of 16 that connect in the same instant
# the kernel drops some, and those come back after a second (measured); 8 are as fast, 10,000 DIDs in 1.4 s.
CONNECTIONS: Final = 8
RELOAD_TIMEOUT: Final = 120.0  # a first reload of 5000 PJSIP endpoints was measured in seconds, not minutes
BUSY: Final = "another reload is currently in progress"
BUSY_WAIT: Final = 0.05  # seconds between tries while another reload runs; grows by half, up to 1 s


class ARIClient:
    """Requests to one Asterisk; use as ``async with ARIClient(url, user, password) as ari``.

    ``url`` is the base without ``/ari``. Raises AriUnreachable, AriAuthFailed, NotFound, Conflict,
    BadRequest or AriError; ``where`` names the address, never the password. ``timeout`` is in seconds, of one
    request. ``alone`` says that nothing else in this process uses aiohttp: see ``_import_aiohttp``.
    """

    def __init__(
        self, url: str, user: str, password: str | Secret, *, timeout: float = 30.0, alone: bool = False
    ) -> None:
        self.url = url.rstrip("/")
        self._user = user
        self._password = password if isinstance(password, Secret) else Secret(password)
        self._timeout = timeout
        self._alone = alone
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Self:
        from base64 import b64encode

        if self._alone:
            _import_aiohttp()
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

        # aiohttp's own BasicAuth is deprecated, and what replaces it is not in 3.11.
        secret = b64encode(f"{self._user}:{self._password.reveal()}".encode()).decode()
        self._session = ClientSession(
            headers={"Authorization": f"Basic {secret}"},
            connector=TCPConnector(
                limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE, ssl=_certificates(self.url)
            ),
            timeout=ClientTimeout(total=self._timeout),
            cookie_jar=DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections; a second close does nothing."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        """Send a request and return Asterisk's answer, whatever its status; only 401 and 403 are raised."""
        from aiohttp import ClientConnectionError, ClientError, ClientTimeout

        if self._session is None:
            raise RuntimeError("this ARIClient is not open; use it in `async with`")
        try:
            async with self._session.request(
                request.method,
                self.url + "/ari" + request.path,
                params=request.query or None,
                json=request.body,
                timeout=ClientTimeout(total=timeout or self._timeout),
            ) as response:
                body = await response.read()
                answer = Answer(response.status, _json(body))
        except TimeoutError as exc:
            raise self._unreachable(request, f"no answer within {timeout or self._timeout:.0f} s") from exc
        except ClientConnectionError as exc:
            # Over its sessionlimit Asterisk accepts and closes without a byte: "server disconnected".
            raise self._unreachable(request, _reason(exc)) from exc
        except ClientError as exc:
            raise AriError(
                f"no valid HTTP answer from {self.url}: {_reason(exc)}",
                method=request.method,
                path=request.path,
                where=self.url,
                hint="is this Asterisk's HTTP port? see http.conf",
            ) from exc
        if answer.status == 401:
            raise AriAuthFailed(
                f"Asterisk refuses the ARI user {self._user!r}: wrong name or password",
                method=request.method,
                path=request.path,
                status=401,
                where=self.url,
                hint=f"compare with the section [{self._user}] in the node's ari.conf",
            )
        if answer.status == 403:
            raise AriError(
                f"the ARI user {self._user!r} may not {request.method} {request.path}: {answer.message}",
                method=request.method,
                path=request.path,
                status=403,
                where=self.url,
                hint=f"set read_only = no in [{self._user}] of the node's ari.conf",
            )
        return answer

    async def request(self, request: Request, *, timeout: float | None = None) -> Any:
        """The JSON body of a successful answer. Raises the AriError that fits the status."""
        answer = await self.ask(request, timeout=timeout)
        if answer.status < 300:
            return answer.body
        raise self.refused(request, answer)

    async def reload(self, module: str) -> None:
        """Reload one module; waits while another reload runs. Conflict: Asterisk refuses the files.

        Returning is no proof: Asterisk answers 204 to files it dropped. Ask for the marks afterwards.
        """
        request = requests.reload_module(module)
        deadline = monotonic() + RELOAD_TIMEOUT
        pause = BUSY_WAIT
        while True:
            answer = await self.ask(request, timeout=RELOAD_TIMEOUT)
            busy = answer.status == 409 and BUSY in answer.message.lower()
            if not busy or monotonic() + pause > deadline:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        if answer.status >= 300:
            raise self.refused(request, answer)

    async def ask_all(self, wanted: Sequence[Request]) -> list[Answer]:
        """The answers to many requests, in their order; CONNECTIONS are on the way at once. The first error
        ends all."""
        answers: list[Answer] = [Answer(0)] * len(wanted)
        rest = iter(enumerate(wanted))

        async def worker() -> None:
            for index, request in rest:
                answers[index] = await self.ask(request)

        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(CONNECTIONS, len(wanted))):
                    group.create_task(worker())
        except* AriError as errors:
            failure = errors.exceptions[0]
        if failure is not None:  # raised out here: Python 3.11.2 would wrap it in a group again
            raise failure
        return answers

    def refused(self, request: Request, answer: Answer) -> AriError:
        """The error that fits an answer's status, with Asterisk's own reason."""
        kind = {400: BadRequest, 404: NotFound, 409: Conflict}.get(answer.status, AriError)
        return kind(
            f"{request.method} {request.path} was refused with {answer.status}:"
            f" {answer.message or 'no reason given'}",
            method=request.method,
            path=request.path,
            status=answer.status,
            where=self.url,
            hint=None if answer.message else "see Asterisk's log",
        )

    def _unreachable(self, request: Request, reason: str) -> AriUnreachable:
        return AriUnreachable(
            f"ARI does not answer: {reason}",
            method=request.method,
            path=request.path,
            where=self.url,
            hint="is Asterisk running, http.conf enabled, and its sessionlimit not used up?",
        )


def _certificates(url: str) -> "SSLContext | bool":
    """How to verify an https ARI: with a context of our own, made when one is asked for."""
    if not url.startswith("https:"):
        return True
    import ssl

    return ssl.create_default_context()


def _import_aiohttp() -> None:
    """Import aiohttp without the system's certificates, which it reads when it is imported.

    That is 40 of its 150 ms, for an ARI that nearly always speaks plain http on loopback, and
    ``_certificates`` brings them where they are needed. aiohttp's own default for https is empty afterwards,
    so this is for processes that are ours alone.
    """
    import os
    import sys

    if "aiohttp" in sys.modules:
        return
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # what OpenSSL looks at before its built-in places
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _json(body: bytes) -> Any:
    import json

    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def _reason(exc: Exception) -> str:
    inner = getattr(exc, "os_error", None)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return str(exc).lower() or type(exc).__name__
