"""voxtractl: tenants of voice applications on Asterisk, as a reviewed file and a proven dialplan.

The public names of the library. They load on first use, so that the command line starts without them.
"""

TYPE_CHECKING = False  # a type checker takes this name for True; importing typing costs 3 ms of --version
if TYPE_CHECKING:
    from voxtractl.ari.client import ARIClient
    from voxtractl.errors import VoxtractlError
    from voxtractl.provision import TenantProvisioner
    from voxtractl.runtime.app import VoxtraApp
    from voxtractl.runtime.session import CallSession

__all__ = ["ARIClient", "CallSession", "TenantProvisioner", "VoxtraApp", "VoxtractlError", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "ARIClient": "voxtractl.ari.client",
    "CallSession": "voxtractl.runtime.session",
    "TenantProvisioner": "voxtractl.provision",
    "VoxtraApp": "voxtractl.runtime.app",
    "VoxtractlError": "voxtractl.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'voxtractl' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
