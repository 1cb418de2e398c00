"""What foreign code raised, in words; nothing here raises."""

__all__ = ["told"]


def told(error: BaseException) -> str:
    """Its type and what it says. An exception of a user's may raise when it is asked."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException:  # noqa: BLE001  a user's code
        return f"{name}: it cannot be told"
