"""The settings of this invocation; the root command sets them, every command reads them."""

from contextvars import ContextVar
from typing import Final

from voxtractl.settings import Settings

__all__ = ["configure", "settings"]

_SETTINGS: Final[ContextVar[Settings]] = ContextVar("settings", default=Settings())  # noqa: B039


def configure(chosen: Settings) -> None:
    _SETTINGS.set(chosen)


def settings() -> Settings:
    """The settings of this invocation; the defaults before the root command has run."""
    return _SETTINGS.get()
