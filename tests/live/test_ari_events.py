"""voxtractl/ari/events.py against the api-docs of the Asterisk that is there."""

from tests.live.conftest import release
from tests.tools import ari_events
from voxtractl.lab import Lab

MADE_OF = 22  # the series whose events the file has


async def test_the_events_are_those_this_asterisk_documents(lab: Lab) -> None:
    """When it fails after an upgrade of Asterisk: `python -m tests.tools.ari_events`, and read the diff."""
    text = await ari_events.served(lab.ari_url, lab.ari_user, lab.ari_password)
    ours = ari_events.TARGET.read_text(encoding="utf-8")
    if release(lab).major >= MADE_OF:
        assert ours == text
    else:  # an older series lacks some, and has none of its own
        assert set(text.splitlines()) <= set(ours.splitlines())
