"""The provisioner before it meets a node: what it reads of the document, and for whom."""

from pathlib import Path

import pytest

from voxtractl.errors import SettingsError, TemplateError
from voxtractl.provision import TenantProvisioner

DOCUMENT = """\
[nodes.pbx1]
ari = "http://127.0.0.1:9"
ari_user = "voxtractl"
ari_password_file = "none"
store = "memory:pbx1"

[nodes.pbx2]
ari = "http://127.0.0.1:9"
ari_user = "voxtractl"
ari_password_file = "none"
store = "memory:pbx2"

[tenants.acme]
dids = ["+265999000001"]
nodes = ["pbx1"]
[tenants.acme.trunk]
host = "127.0.0.2"
username = "acme"
password_file = "acme.trunk"

[tenants.beta]
dids = ["+265999000002"]
nodes = ["pbx2"]
[tenants.beta.trunk]
host = "127.0.0.3"
username = "beta"
password_file = "beta.trunk"
[tenants.beta.templates]
extensions = "beta.j2"
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    (tmp_path / "acme.trunk").write_text("secret\n")
    (tmp_path / "tenants.toml").write_text(DOCUMENT)
    return tmp_path / "tenants.toml"


def test_a_node_needs_no_secret_and_no_template_of_tenants_that_live_elsewhere(document: Path) -> None:
    assert list(TenantProvisioner(document, nodes=["pbx1"]).bundle("pbx1").tenants) == ["acme"]


def test_what_a_node_does_need_is_told_when_it_is_missing(document: Path) -> None:
    with pytest.raises(SettingsError, match=r"beta\.trunk"):
        TenantProvisioner(document).bundle("pbx2")
    (document.parent / "beta.trunk").write_text("secret\n")
    with pytest.raises(TemplateError) as caught:
        TenantProvisioner(document, nodes=["pbx2"]).bundle("pbx2")
    assert caught.value.tenant == "beta"
