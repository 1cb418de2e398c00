"""The words a document may use for codecs and queue strategies are those of a real Asterisk."""

import re

from voxtractl.lab import Lab
from voxtractl.model.forms import CODECS, STRATEGIES


def test_the_codecs_are_those_asterisk_knows(lab: Lab) -> None:
    rows = re.findall(r"^ *\d+ +(audio|video) +\S+ +(\S+)", lab.cli("core show codecs"), re.MULTILINE)
    known = {name for _, name in rows} - {"none"}
    # AMR is a patch, which Debian has and Asterisk's own source has not.
    assert known | {"amr", "amrwb"} == CODECS


def test_asterisk_takes_every_strategy_as_it_is_written(lab: Lab) -> None:
    """An unknown strategy would silently become ringall."""
    blocks = "".join(f"[t-{name}]\nstrategy = {name}\n" for name in STRATEGIES)
    try:
        (lab.config_dir / "queues.conf").write_text(f"[general]\n{blocks}", encoding="utf-8")
        lab.cli("module reload app_queue.so")
        shown = dict(re.findall(r"^t-(\S+) has .* in '(\S+)' strategy", lab.cli("queue show"), re.MULTILINE))
        assert shown == {name: name for name in STRATEGIES}
    finally:
        lab.restore()
