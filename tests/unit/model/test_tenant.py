"""What a tenant may dial: the document's answer is that of the dialplan that is rendered from it."""

from hypothesis import given
from hypothesis import strategies as st

from voxtractl.dialplan import quoting
from voxtractl.dialplan.pattern import Pattern, best
from voxtractl.model.tenant import Outbound

PREFIXES = st.lists(st.from_regex(r"\+?[0-3]{0,4}", fullmatch=True), max_size=5, unique=True)
NUMBERS = st.from_regex(r"(\+|[0-3])[0-3]{0,6}", fullmatch=True)


@given(PREFIXES, PREFIXES, NUMBERS)
def test_it_allows_what_its_dialplan_lets_through(allow: list[str], deny: list[str], number: str) -> None:
    rules = {
        Pattern.of(quoting.prefix(text)): allowed
        for allowed, texts in ((True, allow), (False, deny))  # one in both is denied
        for text in texts
    }
    found = best(rules, number)
    assert Outbound(("1",), tuple(allow), tuple(deny)).allows(number) is (found is not None and rules[found])


def test_no_rule_allows_nothing() -> None:
    assert not Outbound(("1",)).allows("+265999000001")
