"""One node, that is one Asterisk, as the document describes it: where its files and its ARI are."""

from dataclasses import dataclass

from voxtractl.settings import SecretRef

__all__ = ["Node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    ari: str  # base URL without /ari: http://127.0.0.1:8088
    ari_user: str
    ari_password: SecretRef
    store: str  # local:/path · sftp://user@host[:port]/path · memory:NAME
    config_dir: str | None = (
        None  # Asterisk's configuration folder as the store reaches it; store's parent when None
    )
    identity: str | None = None  # SSH private key file; the agent and ~/.ssh defaults when None
    file: str = ""
