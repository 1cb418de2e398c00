"""Which Asterisk a lab uses."""

import pytest

from voxtractl.errors import LabError
from voxtractl.lab.ways import MachineFacts, choose, machine


def facts(
    *,
    system: str = "Linux",
    uid: int = 0,
    distributions: frozenset[str] = frozenset({"debian"}),
    asterisk: str | None = None,
) -> MachineFacts:
    return MachineFacts(system=system, uid=uid, distributions=distributions, asterisk=asterisk, account=None)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("distribution", ["debian", "fedora"])
def test_an_asterisk_on_path_is_taken_whoever_and_wherever_we_are(uid: int, distribution: str) -> None:
    found = facts(uid=uid, distributions=frozenset({distribution}), asterisk="/opt/asterisk")
    assert choose(found) == "path"


@pytest.mark.parametrize("distributions", [{"debian"}, {"ubuntu", "debian"}, {"linuxmint", "ubuntu"}])
def test_root_on_a_debian_like_machine_builds_one(distributions: set[str]) -> None:
    assert choose(facts(distributions=frozenset(distributions))) == "root"


def test_without_root_the_error_says_so_and_what_to_do() -> None:
    with pytest.raises(
        LabError, match="no asterisk on PATH, and none can be built: you are not root"
    ) as caught:
        choose(facts(uid=1000))
    assert "install Asterisk" in str(caught.value.hint)
    assert "as root" in str(caught.value.hint)


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(LabError, match="neither Debian nor Ubuntu and you are not root"):
        choose(facts(uid=1000, distributions=frozenset({"fedora"})))


def test_root_elsewhere_than_on_debian_is_told_about_the_distribution_only() -> None:
    with pytest.raises(LabError, match=r"(?m)none can be built: this is neither Debian nor Ubuntu$"):
        choose(facts(distributions=frozenset({"alpine"})))


def test_another_system_than_linux_is_refused_even_with_asterisk() -> None:
    with pytest.raises(LabError, match="this is Darwin"):
        choose(facts(system="Darwin", asterisk="/opt/homebrew/sbin/asterisk"))


def test_the_facts_of_this_machine_are_read() -> None:
    assert machine().system == "Linux"


def test_an_asterisk_is_found_by_path(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("bin")
    binary = folder / "asterisk"
    binary.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(folder))
    before = machine().asterisk
    assert before != str(binary)  # not executable yet
    binary.chmod(0o755)
    assert machine().asterisk == str(binary)
