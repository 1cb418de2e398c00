from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtractl.errors import UsageFault
from voxtractl.runtime.router import Router

DID = "+265999000001"


async def acme(call: object) -> None: ...
async def beta(call: object) -> None: ...


def name_of(router: Router[str], number: str) -> str | None:
    route = router.find(number)
    return route and route.handler


def test_the_narrowest_rule_wins() -> None:
    router: Router[str] = Router()
    router.default("default")
    router.add("prefix", prefix="+265")
    router.add("longer prefix", prefix="+26599")
    router.add("wide pattern", extension="_+2658X.")
    router.add("narrow pattern", extension="_+26588X.")
    router.add("exact", extension=DID)
    router.add("number", number="1000")
    for number, handler in (
        (DID, "exact"),
        ("265999000001", "exact"),
        ("+265-999-000-001", "exact"),
        ("1000", "number"),
        ("+1000", "number"),
        ("+2658812", "narrow pattern"),
        ("+265881", "wide pattern"),
        ("+26588", "prefix"),
        ("26588", "prefix"),  # a pattern says itself whether it has a plus
        ("+26599", "longer prefix"),
        ("+265990", "longer prefix"),
        ("+26590", "prefix"),
        ("49", "default"),
        ("", "default"),
    ):
        assert name_of(router, number) == handler, number


def test_a_number_that_is_no_string_is_refused() -> None:
    with pytest.raises(UsageFault, match="extension=1000 is no string"):
        Router[str]().add("acme", extension=cast("Any", 1000))


def test_a_number_as_it_was_called_comes_before_the_one_with_its_plus_changed() -> None:
    router: Router[str] = Router()
    router.add("with", extension="+1000")
    router.add("without", extension="1000")
    router.add("prefix with", prefix="+2")
    router.add("longer prefix without", prefix="22")
    assert name_of(router, "+1000") == "with"
    assert name_of(router, "1000") == "without"
    assert name_of(router, "+22") == "prefix with"
    assert name_of(router, "22") == "longer prefix without"


def test_without_a_default_a_foreign_number_has_no_route() -> None:
    router: Router[str] = Router()
    router.add("acme", extension=DID)
    assert router.find("+1") is None


def test_a_route_tells_its_rule_and_its_metadata() -> None:
    router: Router[str] = Router()
    given_metadata = {"language": "ny"}
    router.add("acme", extension="_+265X.", metadata=given_metadata)
    given_metadata["language"] = "en"
    route = router.find(DID)
    assert route is not None
    assert (route.handler, route.kind, route.text) == ("acme", "pattern", "_+265X.")
    assert route.metadata == {"language": "ny"}
    default = router.default("default")
    assert (default.kind, default.text, default.metadata) == ("default", "", {})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"extension": DID}, {"extension": DID}),
        ({"extension": DID}, {"number": DID}),
        ({"extension": "1000"}, {"extension": "10-00"}),
        ({"extension": "_X"}, {"extension": "_[0-9]"}),
        ({"prefix": "+2"}, {"prefix": "+2"}),
    ],
)
def test_what_is_taken_names_both_handlers(first: Mapping[str, str], second: Mapping[str, str]) -> None:
    router: Router[object] = Router()
    router.add(acme, **first)  # type: ignore[arg-type]
    with pytest.raises(UsageFault) as caught:
        router.add(beta, **second)  # type: ignore[arg-type]
    assert f"{__name__}.acme and to {__name__}.beta" in caught.value.message
    assert next(iter(second.values())) in caught.value.message


def test_a_second_default_names_both_handlers() -> None:
    router: Router[object] = Router()
    router.default(acme)
    with pytest.raises(UsageFault, match=r"the default goes to .*acme and to .*beta"):
        router.default(beta)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"extension": DID, "number": DID},
        {"extension": DID, "prefix": "+2"},
        {"extension": ""},
        {"number": "_X."},
        {"prefix": "_X."},
        {"prefix": ""},
        {"prefix": "+2 6"},
        {"extension": "_X.5"},
    ],
)
def test_a_route_that_cannot_be_is_refused_and_changes_nothing(where: Mapping[str, str]) -> None:
    router: Router[object] = Router()
    with pytest.raises(UsageFault):
        router.add(acme, **where)  # type: ignore[arg-type]
    assert router.find(DID) is None


@given(
    numbers=st.sets(st.from_regex(r"\+?[0-9]{1,5}", fullmatch=True), max_size=20),
    prefixes=st.sets(st.from_regex(r"\+?[0-9]{1,4}", fullmatch=True), max_size=10),
    called=st.from_regex(r"\+?[0-9]{0,6}", fullmatch=True),
)
def test_numbers_and_prefixes_are_found_as_by_looking_at_all(
    numbers: set[str], prefixes: set[str], called: str
) -> None:
    router: Router[str] = Router()
    for number in numbers:
        router.add(f"number {number}", number=number)
    for prefix in prefixes:
        router.add(f"prefix {prefix}", prefix=prefix)
    other = called[1:] if called.startswith("+") else f"+{called}"
    expected = next((f"number {form}" for form in (called, other) if form in numbers), None)
    for form in (called, other):
        fitting = sorted((p for p in prefixes if form.startswith(p)), key=len)
        expected = expected or (f"prefix {fitting[-1]}" if fitting else None)
    assert name_of(router, called) == expected
