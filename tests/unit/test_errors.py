"""What somebody sees of an error that nobody caught."""

from traceback import format_exception

from voxtractl.errors import AriUnreachable, UsageFault


def test_a_traceback_names_the_place_and_the_next_step() -> None:
    error = AriUnreachable(
        "no answer", method="GET", path="/x", where="http://pbx:8088", hint="is it running?"
    )
    assert "".join(format_exception(error)).splitlines()[1:] == [
        "where: http://pbx:8088",
        "hint:  is it running?",
    ]


def test_without_them_it_has_nothing_more() -> None:
    assert not hasattr(UsageFault("no answer"), "__notes__")
