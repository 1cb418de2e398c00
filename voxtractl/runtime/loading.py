"""A tenant's handler file becomes its VoxtraApp, in a module namespace of its own.

``handlers/acme.py:app`` or ``package.module:app``. Two tenants with the same file get two modules and two
apps; modules that lie beside a handler file are its own as well. A handler file written for the library
``voxtra`` runs unchanged when that library is not installed: its import finds this package.
"""

import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from voxtractl.errors import HandlerFault
from voxtractl.runtime.app import LOADING, VoxtraApp

__all__ = ["load_app"]

PEER: Final = "voxtra"
_LOCK: Final = threading.Lock()  # sys.path and sys.modules belong to the process


def load_app(handler: str, tenant: str, base: Path) -> VoxtraApp:
    """The app of a tenant's handler; relative files are seen from ``base``. Raises HandlerFault.

    Runs the handler file: call it in a thread, for the file may do anything.
    """
    place, _, name = handler.rpartition(":")
    with _LOCK:
        token = LOADING.set(True)
        try:
            module = _module(place, tenant, base)
        except HandlerFault:
            raise
        except BaseException as exc:  # foreign code: SystemExit too; only this tenant is without a handler
            if isinstance(exc, KeyboardInterrupt):
                raise
            line = _line(exc, place, base)
            raise HandlerFault(
                f"the handler of {tenant} cannot be loaded: {type(exc).__name__}: {exc}",
                tenant=tenant,
                where=line,
                hint=f"python {place}" if place.endswith(".py") else None,
            ) from exc
        finally:
            LOADING.reset(token)
    found = getattr(module, name, None)
    if not isinstance(found, VoxtraApp):
        raise HandlerFault(
            f"{handler} of {tenant} has no VoxtraApp named {name!r}",
            tenant=tenant,
            where=getattr(module, "__file__", place),
            hint=f"write {name} = VoxtraApp() there, or name it after the colon",
        )
    return found


def _module(place: str, tenant: str, base: Path) -> ModuleType:
    name = f"voxtractl_handler_{tenant.replace('-', '_')}"
    if place.endswith(".py"):
        path = (base / Path(place).expanduser()).resolve()
        if not path.is_file():
            raise HandlerFault(
                f"the handler file of {tenant} does not exist",
                tenant=tenant,
                where=str(path),
                hint="check handler =",
            )
        spec = importlib.util.spec_from_file_location(name, path)
        folder = str(path.parent)
    else:
        folder = str(base.resolve())
        sys.path.insert(0, folder)
        try:
            found = importlib.util.find_spec(place)
        finally:
            sys.path.remove(folder)
        if found is None or found.origin is None:
            raise HandlerFault(
                f"there is no module {place} for {tenant}",
                tenant=tenant,
                where=place,
                hint="is it installed?",
            )
        # Its own name, so that relative imports lead to its package; another module object for each tenant.
        spec = importlib.util.spec_from_file_location(place, found.origin)
    if spec is None or spec.loader is None:
        raise HandlerFault(f"{place} is no Python file", tenant=tenant, where=place)
    return _run(spec, name, folder)


def _run(spec: ModuleSpec, name: str, folder: str) -> ModuleType:
    """Run the module; what it imported from its own folder stays with it and is not the next tenant's."""
    assert spec.loader is not None  # noqa: S101  _module looked
    _know_peer()
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[name] = module  # pickle and dataclasses look it up there
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
        for other in set(sys.modules) - before:
            file = getattr(sys.modules[other], "__file__", None) or ""
            if other != name and file.startswith(folder + "/"):
                del sys.modules[other]
    return module


def _know_peer() -> None:
    """``from voxtra import VoxtraApp`` finds this package, unless that library is installed."""
    if PEER in sys.modules or importlib.util.find_spec(PEER) is not None:
        return
    from voxtractl.runtime import peer

    for name, promised in peer.MODULES.items():
        module = ModuleType(name, "voxtractl under the name that handlers of the voxtra library import")
        vars(module).update(promised, __all__=[*promised])
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _line(exc: BaseException, place: str, base: Path) -> str:
    """File and line of the handler where it went wrong."""
    path = str((base / place).resolve()) if place.endswith(".py") else place
    line = exc.lineno if isinstance(exc, SyntaxError) else None
    frame = exc.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == path:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f"{path}:{line}" if line else path
