"""The rendered configuration; that Asterisk has nothing to complain about it is a live test."""

import re
from dataclasses import replace

from voxtractl.lab.config import FOLDERS, NOLOAD, ConfigFacts, render
from voxtractl.lab.ports import Ports

FACTS = ConfigFacts(
    inside="/var/lab/x",
    ports=Ports(20_001, 20_002, 10_000, 10_999),
    ari_password="pw-a",
    reader_password="pw-b",
)


def test_the_same_facts_give_the_same_bytes() -> None:
    assert render(FACTS) == render(replace(FACTS))


def test_every_folder_asterisk_writes_to_is_inside_the_instance() -> None:
    folders = re.findall(r"^(\w+) => (.*)$", render(FACTS)["asterisk.conf"], re.MULTILINE)
    assert {name for name, _ in folders} == {
        "astetcdir",
        "astvarlibdir",
        "astdbdir",
        "astkeydir",
        "astagidir",
        "astspooldir",
        "astrundir",
        "astlogdir",
    }
    for _, path in folders:
        assert path.startswith("/var/lab/x/")
        assert path.removeprefix("/var/lab/x/") in {*FOLDERS, "etc"}


def test_every_port_is_on_loopback() -> None:
    files = render(FACTS)
    assert "bindaddr = 127.0.0.1\nbindport = 20001\n" in files["http.conf"]
    assert "bind = 127.0.0.1:20002\n" in files["pjsip.conf"]
    assert "rtpstart = 10000\nrtpend = 10999\n" in files["rtp.conf"]
    assert "enabled = no\n" in files["manager.conf"]


def test_the_passwords_stand_in_one_file_only() -> None:
    files = render(FACTS)
    assert [name for name, text in files.items() if "pw-" in text] == ["ari.conf"]


def test_the_include_lines_are_left_to_node_init() -> None:
    assert "include" not in "".join(render(FACTS).values())


def test_no_module_is_left_out_for_two_reasons() -> None:
    names = [name for group in NOLOAD.values() for name in group.split()]
    assert len(names) == len(set(names))


def test_no_line_is_longer_than_asterisk_reads() -> None:
    assert max(len(line) for text in render(FACTS).values() for line in text.splitlines()) < 8000
