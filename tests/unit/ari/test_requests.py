"""What is refused before it is sent, and the shape of requests. What Asterisk says to them:
tests/live/test_ari_requests.py."""

import re
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.ari import requests
from voxtractl.errors import UsageFault

TO_APP: dict[str, Any] = {"app": "a"}
TO_DIALPLAN: dict[str, Any] = {"context": "from-trunk-out", "extension": "+265999000001"}


def test_an_originate_to_an_app() -> None:
    request = requests.originate(
        "PJSIP/+265999000001@trunk",
        app="voxtra",
        app_args=["a,b", "c"],
        caller_id='"Acme" <+265888000001>',
        timeout=12.2,
        variables={"A": 1},
        channel_id="id/1",
        formats=["slin", "ulaw"],
    )
    assert request == requests.Request(
        "POST",
        "/channels/id%2F1",
        (
            ("endpoint", "PJSIP/+265999000001@trunk"),
            ("app", "voxtra"),
            ("appArgs", "a\\,b,c"),
            ("callerId", '"Acme" <+265888000001>'),
            ("timeout", "13"),
            ("formats", "slin,ulaw"),
        ),
        {"variables": {"A": "1"}},
        True,
    )


def test_an_originate_to_the_dialplan() -> None:
    request = requests.originate("Local/1@x", **TO_DIALPLAN, priority=2)
    assert request.path == "/channels"
    assert request.query == (
        ("endpoint", "Local/1@x"),
        ("context", "from-trunk-out"),
        ("extension", "+265999000001"),
        ("priority", "2"),
        ("timeout", "30"),
    )
    assert request.body is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (TO_APP | TO_DIALPLAN, "app or context, not both"),
        (TO_APP | {"extension": "1"}, "app or context, not both"),
        ({}, "needs app, or context and extension"),
        ({"context": "c"}, "needs app, or context and extension"),
        ({"extension": "1"}, "needs app, or context and extension"),
        (TO_DIALPLAN | {"app_args": ["x"]}, "app_args are for a Stasis app"),
        (TO_APP | {"app_args": "x"}, "not one string"),
        *((TO_APP | {"timeout": wrong}, "timeout") for wrong in (0, nan, inf, None, "30")),
        (TO_APP | {"caller_id": 265888000001}, "no caller id"),
        (TO_APP | {"caller_id": "x\r\nFrom: y"}, "control character"),
        (TO_APP | {"endpoint": ""}, "no endpoint"),
        (TO_APP | {"endpoint": "PJSIP"}, "no endpoint"),
        (TO_APP | {"endpoint": "PJSIP/"}, "no endpoint"),
        (TO_APP | {"endpoint": "PJSIP/1&PJSIP/2"}, "no endpoint"),
        (TO_APP | {"endpoint": "PJSIP/1\nX"}, "no endpoint"),
        (TO_APP | {"endpoint": None}, "no endpoint"),
        (TO_APP | {"variables": {"A": None}}, "cannot be None"),
        (TO_DIALPLAN | {"extension": "5&Local/777"}, "no extension"),
        (TO_DIALPLAN | {"context": "a,b"}, "no context"),
    ],
)
def test_an_originate_that_is_refused(words: dict[str, Any], why: str) -> None:
    endpoint = words.pop("endpoint", "PJSIP/1") if "endpoint" in words else "PJSIP/1"
    with pytest.raises(UsageFault, match=why):
        requests.originate(endpoint, **words)


@pytest.mark.parametrize(
    "number", ["", "5&Local/777", "1,2", "1 2", " 1", "1\n", "${X}", "1@c", "1/n", "-1", "1" * 80, None, 12]
)
def test_what_is_no_extension(number: Any) -> None:
    with pytest.raises(UsageFault, match="is no extension"):
        requests.dialled_number(number)


@pytest.mark.parametrize("number", ["+265999000001", "s", "1000", "*97", "#9", "vm-main", "a.b_c", "1" * 79])
def test_what_is_an_extension(number: str) -> None:
    assert requests.dialled_number(number) == number


def test_variables_become_strings() -> None:
    given = {
        "A": True,
        "_B": False,
        "__C9": 7,
        "d": 1.5,
        "CALLERID(name)": "Ann",
        "PJSIP_HEADER(add,X-Y)": "z,",
    }
    assert requests.variables(given) == {
        "A": "1",
        "_B": "0",
        "__C9": "7",
        "d": "1.5",
        "CALLERID(name)": "Ann",
        "PJSIP_HEADER(add,X-Y)": "z,",
    }


@pytest.mark.parametrize("value", [None, [], {}, b"x", object, ("a",)])
def test_values_that_are_no_variables(value: object) -> None:
    with pytest.raises(UsageFault, match="channel variable A cannot be"):
        requests.variables({"A": value})


@pytest.mark.parametrize(
    "name",
    ["", "1A", "A B", "A=B", "___A", "A-B", "A)", "lower(x)", "A(${X})", "A(x)y", "A\n", "A(x\n)", "É"],
)
def test_names_that_are_no_variables(name: str) -> None:
    with pytest.raises(UsageFault, match="no name of a channel variable"):
        requests.variables({name: "x"})


def test_a_line_break_is_text_in_a_variable_and_refused_in_a_function() -> None:
    assert requests.variables({"NOTE": "a\nb"}) == {"NOTE": "a\nb"}
    with pytest.raises(UsageFault, match="control character"):
        requests.variables({"PJSIP_HEADER(add,X-A)": "a\r\nX-Evil: b"})
    with pytest.raises(UsageFault, match="control character"):
        requests.variables({"NOTE": "a\0b"})


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_arguments_come_apart_as_they_were(args: list[str]) -> None:
    parts = _marked(requests.app_args(args)).split(",")
    assert [_unmarked(part) for part in parts] == args


def _marked(text: str) -> str:
    """Escaped characters out of the way, as a reader with a state would hold them."""
    return re.sub(r"\\(.)", lambda m: f"\0{ord(m[1]):x}\0", text, flags=re.DOTALL)


def _unmarked(text: str) -> str:
    return re.sub("\0([0-9a-f]+)\0", lambda m: chr(int(m[1], 16)), text)


@pytest.mark.parametrize(
    "build",
    [
        lambda: requests.hangup("c", "because"),
        lambda: requests.hangup("c", "busy", cause=17),
        lambda: requests.hangup("c", cause=0),
        lambda: requests.hangup("c", cause=128),
        lambda: requests.dtmf("c", ""),
        lambda: requests.dtmf("c", "1&2"),
        lambda: requests.play("c", "p", []),
        lambda: requests.play("c", "p", "vm-goodbye"),
        lambda: requests.move("c", "a", ["x,y"]),
        lambda: requests.move("c", "a", [""]),
        lambda: requests.move("c", "a", "xy"),
        lambda: requests.snoop("c", "s", app="a", app_args=["${SHELL(id)}"]),
        lambda: requests.external_media(
            "c", app="a", format="slin", encapsulation="none", external_host="h" * 45 + ":4000"
        ),
        lambda: requests.external_media("c", app="a", format="slin", encapsulation="rtp"),
        lambda: requests.subscribe("a", []),
        lambda: requests.subscribe("a", "channel:1"),
        lambda: requests.add_to_bridge("b", ["x,y"]),
        lambda: requests.event_filter("a", ["RESTResponse"]),
        lambda: requests.record("c", "a\0b", "wav"),
        lambda: requests.get_variable("c", "A B"),
        lambda: requests.set_variable("c", "A", None),
        lambda: requests.answer("half \ud83d"),
    ],
)
def test_other_nonsense_is_refused(build: Any) -> None:
    with pytest.raises(UsageFault):
        build()


def test_an_allow_list_keeps_the_answers() -> None:
    assert requests.event_filter("a", allowed=["StasisStart"]).body == {
        "allowed": [{"type": "StasisStart"}, {"type": "RESTResponse"}],
        "disallowed": [],
    }
    assert requests.event_filter("a").body == {"allowed": [], "disallowed": []}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_id_never_leaves_its_place_in_the_path(id: str) -> None:
    assert requests.answer(id).path.count("/") == 3
    assert re.fullmatch(r"[A-Za-z0-9/._~%-]+", requests.playback(id).path)


@pytest.mark.parametrize(
    "request_",
    [
        requests.channels(),
        requests.bridges(),
        requests.applications(),
        requests.application("a"),
        requests.event_filter("a"),
        requests.unsubscribe("a", ["channel:1"]),
        requests.subscribe("a", ["channel:1"], many=True),
    ],
)
def test_a_list_that_grows_never_goes_over_the_websocket(request_: requests.Request) -> None:
    assert request_.slow
    assert not requests.subscribe("a", ["channel:1"]).slow


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("CURL(http://127.0.0.1/)", True),
        ("ODBC_PRICE(1)", True),
        ("TENANT_ID", False),
        ("CALLERID(dnid)", False),
        ("DIALPLAN_EXISTS(a,s,1)", False),
    ],
)
def test_a_function_of_the_dialplan_holds_up_no_websocket(name: str, slow: bool) -> None:
    assert requests.get_variable("1", name).slow is slow
    assert requests.get_global(name).slow is slow
    assert requests.set_global(name, "x").slow is slow


def test_what_an_answer_says_is_one_line_and_has_an_end() -> None:
    said = requests.Answer(500, {"message": "\x1b[2J\nno\x9b " + "x" * 10_000}).message
    assert said.startswith("?[2J?no? x")
    assert len(said) == requests.MESSAGE_MAX
    assert requests.Answer(500, {"error": "nicht möglich"}).message == "nicht möglich"
    assert requests.Answer(500, ["?"]).message == ""
