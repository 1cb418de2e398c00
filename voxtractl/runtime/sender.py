"""Requests that may be sent twice, sent until Asterisk answers.

    sent ──answer──▶ told, whatever its status
      └─ none ──▶ sent again, for a minute
               └─ the event connection is down, or we stop ──▶ given up: a resync will follow

All of it belongs to the loop of the hub.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from voxtractl.ari.client import ARIClient
from voxtractl.ari.requests import Answer, Request
from voxtractl.errors import AriError

__all__ = ["Sender"]

log = logging.getLogger(__name__)

PAUSES: Final = (0.0, 0.2, 0.4, 0.8, 1.6, *[3.2] * 18)  # seconds; together a minute


class Sender:
    """``goes_on`` tells whether to send again; ``spawn`` runs a task of the hub."""

    def __init__(
        self,
        ari: ARIClient,
        *,
        goes_on: Callable[[], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ari, self._goes_on, self._spawn = ari, goes_on, spawn

    async def insist(self, request: Request) -> Answer | None:
        """The answer; None when it was given up."""
        for pause in PAUSES:
            try:
                return await self._ari.ask(request)
            except AriError as exc:
                log.warning("%s %s: %s", request.method, request.path, exc)
            if not self._goes_on():
                return None
            await asyncio.sleep(pause)
        return None

    def send(self, request: Request, told: Callable[[Answer], None]) -> None:
        """Send it and go on; ``told`` gets the answer when Asterisk gives one.

        Without a task where it can be: a call has three of these, and tasks were a tenth of its cost. The
        body of an answer is not read then, unless it is a refusal's.
        """
        if not self._ari.post(request, partial(self._sent, request, told)):
            self.send_and_read(request, told)

    def send_and_read(self, request: Request, told: Callable[[Answer], None]) -> None:
        """As ``send``, and the body of the answer is read."""
        self._spawn(self._insist_for(request, told))

    def _sent(self, request: Request, told: Callable[[Answer], None], answer: Answer | AriError) -> None:
        if isinstance(answer, Answer):
            told(answer)
        else:
            log.warning("%s %s: %s", request.method, request.path, answer)
            self.send_and_read(request, told)

    async def _insist_for(self, request: Request, told: Callable[[Answer], None]) -> None:
        answer = await self.insist(request)
        if answer is not None:
            told(answer)
