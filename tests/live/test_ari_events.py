"""voxtractl/ari/events.py against the api-docs of the Asterisk that is there."""

from tests.tools import ari_events
from voxtractl.lab import Lab


async def test_the_events_are_those_this_asterisk_documents(lab: Lab) -> None:
    """When it fails after an upgrade of Asterisk: `python -m tests.tools.ari_events`, and read the diff."""
    text = await ari_events.served(lab.ari_url, lab.ari_user, lab.ari_password)
    assert ari_events.TARGET.read_text(encoding="utf-8") == text
