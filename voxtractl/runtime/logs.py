"""The log of a runtime: which tenant, which call, and never a secret. stdlib logging; text or one JSON
object a line."""

import json
import logging
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, TextIO

from voxtractl.runtime.app import CALL, TENANT
from voxtractl.settings import Secret

__all__ = ["configure"]

STARS: Final = "****"
OURS: Final = "voxtractl"
NOISY: Final = ("asyncio", "aiohttp.access", "aiohttp.server", "voxtractl.ari.stream.wire")
SHORTEST: Final = 4  # a shorter secret would turn ordinary words into stars


class _Redact(logging.Filter):
    """Puts stars where a secret would stand, in messages and tracebacks, and adds tenant and call."""

    def __init__(self, secrets: Collection[Secret]) -> None:
        super().__init__()
        self._secrets, self._known = secrets, 0
        self._texts: list[str] = []

    def clean(self, text: str) -> str:
        if len(self._secrets) != self._known:  # a node's password was changed
            texts = {secret.reveal() for secret in self._secrets}
            self._texts = sorted((text for text in texts if len(text) >= SHORTEST), key=len, reverse=True)
            self._known = len(self._secrets)
        for secret in self._texts:
            text = text.replace(secret, STARS)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clean(_message(record)), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.clean(record.exc_text)
        record.tenant, record.call = TENANT.get(), CALL.get()
        return True


def _message(record: logging.LogRecord) -> str:
    """What it says; a format that does not fit its values is shown beside them, and raises nothing."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  a user's format, or objects of a user's
        with suppress(Exception):
            return f"{record.msg} {record.args!r}"
        return f"a line that cannot be written, of {record.pathname}:{record.lineno}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "tenant": getattr(record, "tenant", None),
            "call_id": getattr(record, "call", None),
        }
        if record.exc_text:
            told["traceback"] = record.exc_text
        return json.dumps(told, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        place = " ".join(
            part for part in (getattr(record, "tenant", None), getattr(record, "call", None)) if part
        )
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"{time} {record.levelname.lower():7} {f'[{place}] ' if place else ''}{record.getMessage()}"
        return f"{line}\n{record.exc_text}" if record.exc_text else line


def configure(
    *,
    as_json: bool = False,
    verbose: bool = False,
    secrets: Collection[Secret] = (),
    stream: TextIO | None = None,
) -> Callable[[], None]:
    """Send the whole process's log to ``stream`` (stderr), at INFO, with ``verbose`` at DEBUG.

    ``secrets`` may grow meanwhile.

    Returns what makes it so again. A handler file that configures logging does so for every tenant:
    ``dictConfig`` silences all loggers there are, ``basicConfig(force=True)`` takes the stars away.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    form = _Json() if as_json else _Text()
    keep = partial(_keep, handler, _Redact(secrets), form, logging.DEBUG if verbose else logging.INFO)
    keep()
    return keep


def _keep(handler: logging.Handler, redact: _Redact, form: logging.Formatter, level: int) -> None:
    """Loggers of a tenant's own may have what handlers and levels they like; the root's and voxtractl's are
    everybody's."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    _set_level(root, level)
    handler.filters[:] = [redact]
    handler.setFormatter(form)
    handler.setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)
    logging.setLogRecordFactory(logging.LogRecord)
    for logger in (root, *list(root.manager.loggerDict.values())):
        if isinstance(logger, logging.Logger):
            logger.disabled = False
            if logger.name.partition(".")[0] == OURS:
                logger.filters.clear()
                logger.propagate = True
                _set_level(logger, logging.WARNING if logger.name in NOISY else logging.NOTSET)
    for noisy in NOISY:
        _set_level(logging.getLogger(noisy), logging.WARNING)


def _set_level(logger: logging.Logger, level: int) -> None:
    if logger.level != level:  # setting it makes all loggers forget what they know
        logger.setLevel(level)
