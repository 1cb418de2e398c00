"""The pure parts of the store's contract: URLs, and the store as Asterisk's includes name it."""

import pytest

from voxtractl.deploy.store.base import Place, include_prefix, parse_url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("local:/etc/asterisk/voxtractl", Place("local", "/etc/asterisk/voxtractl")),
        ("local:/etc/asterisk/voxtractl/", Place("local", "/etc/asterisk/voxtractl")),
        ("memory:pbx1", Place("memory", "pbx1")),
        (
            "sftp://deploy@pbx1.example.net/etc/a/v",
            Place("sftp", "/etc/a/v", "pbx1.example.net", 22, "deploy"),
        ),
        ("sftp://pbx1:2222/etc/a/v", Place("sftp", "/etc/a/v", "pbx1", 2222, None)),
        ("sftp://u@[2001:db8::1]:2222/v", Place("sftp", "/v", "2001:db8::1", 2222, "u")),
        ("sftp://u@[2001:db8::1]/v", Place("sftp", "/v", "2001:db8::1", 22, "u")),
    ],
)
def test_a_store_url_names_a_place(url: str, place: Place) -> None:
    assert parse_url(url) == place


@pytest.mark.parametrize(
    "url",
    [
        *("", "/etc/asterisk", "local:etc/asterisk", "local://host/x", "memory:", "memory:a/b", "ftp://h/x"),
        *("sftp://", "sftp://host", "sftp://host/", "sftp://u@/x", "sftp://host:0/x", "sftp://host:70000/x"),
    ],
)
def test_any_other_text_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="a store is local:/path"):
        parse_url(url)


@pytest.mark.parametrize(
    ("store", "config", "prefix"),
    [
        ("/etc/asterisk/voxtractl", "/etc/asterisk", "voxtractl"),
        ("/etc/asterisk/voxtractl/", "/etc/asterisk/", "voxtractl"),
        ("/srv/pbx/etc/asterisk/a/b", "/srv/pbx/etc/asterisk", "a/b"),
        ("/etc/asterisk/../asterisk/v", "/etc/asterisk", "v"),
    ],
)
def test_includes_name_the_store_from_asterisks_folder(store: str, config: str, prefix: str) -> None:
    assert include_prefix(store, config) == prefix


@pytest.mark.parametrize("store", ["/etc/asterisk", "/etc/asterisk2/v", "/var/lib/v", "/etc/asterisk/../v"])
def test_a_store_outside_asterisks_folder_is_refused(store: str) -> None:
    with pytest.raises(
        ValueError, match="is not inside Asterisk's configuration folder /etc/asterisk; put it at"
    ):
        include_prefix(store, "/etc/asterisk")
