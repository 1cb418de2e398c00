"""A tenant's handler file becomes its VoxtraApp, in a package of its own.

``handlers/acme.py:app`` or ``package.module:app``. Two tenants with the same file get two modules and two
apps. What lies beside a handler file belongs to it too:

    handlers/acme.py     voxtractl_handler_acme_1.acme
    handlers/words.py    voxtractl_handler_acme_1.words     `import words`, or `from . import words`

Each load has a package with a number of its own, so that a reload runs new code while old calls go on with
the old. The import statement of these modules looks into their package (after the standard library, before
what is installed), whenever it runs. Nothing of the process is changed for that, and so loads need no lock:
a file that never ends holds up its own tenant.

A handler file written for the library ``voxtra`` runs unchanged when that library is not installed: its
import finds this package.
"""

import builtins
import importlib.util
import logging
import os
import stat
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, all_suffixes
from itertools import count
from pathlib import Path
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any, Final, NamedTuple

from voxtractl.errors import HandlerFault
from voxtractl.runtime.app import LOADING, VoxtraApp
from voxtractl.runtime.wording import told

__all__ = ["Code", "unload"]

PEER: Final = "voxtra"
SUFFIXES: Final = tuple(all_suffixes())
_PEER_LOCK: Final = threading.Lock()
_NUMBERS: Final = count(1)
_PATH: Final = frozenset(sys.path)  # what no handler has put there
_PACKAGES: Final[dict[str, "Code"]] = {}  # by the name of the package


class _Stamp(NamedTuple):
    device: int
    inode: int
    changed: int  # ns


class Code:
    """The Python code behind a tenant's ``handler``; relative files are seen from ``base``.

    One object is one load: another one reads the files anew.
    """

    def __init__(self, handler: str, tenant: str, base: Path) -> None:
        self.handler, self.tenant = handler, tenant
        self.place, _, self._name = handler.rpartition(":")
        is_file = self.place.endswith(".py")
        self._given = base / Path(self.place).expanduser() if is_file else base
        self._found = _real(self._given)  # may lead elsewhere later: a release is often one rename of a link
        self._base = base.resolve()
        self.file = Path(self._found) if is_file else None
        self._folder = str(self.file.parent if self.file else self._base)
        self._folders = [self._folder]
        self.package = f"voxtractl_handler_{tenant.replace('-', '_')}_{next(_NUMBERS)}"
        self._own: dict[str, bool] = {}  # names at the top, whether they are ours
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._stamps: dict[str, object] = {}  # of each file, before it was read
        if self.file:
            self.watch(str(self.file))
        self._thread: threading.Thread | None = None

    # --- loading ------------------------------------------------------------------------------------------

    def start(self) -> Future[VoxtraApp]:
        """``load`` in a thread of its own, which holds nobody up: not even the end of the process."""
        done: Future[VoxtraApp] = Future()
        done.set_running_or_notify_cancel()

        def work() -> None:
            try:
                done.set_result(self.load())
            except BaseException as exc:  # noqa: BLE001  whatever it is, it is for the one who waits
                done.set_exception(exc)

        self._thread = threading.Thread(target=work, name=f"load {self.tenant}", daemon=True)
        self._thread.start()
        return done

    def load(self) -> VoxtraApp:
        """Run the handler file, which may do anything, and return its app. Raises HandlerFault."""
        token = LOADING.set(True)
        try:
            module = self._module()
            found = getattr(module, self._name, None)
        except HandlerFault:
            self.watch(self._folder)  # a file that is missing may come
            raise
        except BaseException as exc:  # foreign code: SystemExit too; only this tenant is without a handler
            self.watch(self._folder)
            exc.__traceback__ = self._from_its_file(exc)
            raise HandlerFault(
                f"the handler of {self.tenant} cannot be loaded: {told(exc).replace(f'{self.package}.', '')}",
                tenant=self.tenant,
                where=self._line(exc),
                hint=f"python {self.place}" if self.file else None,
            ) from exc
        finally:
            LOADING.reset(token)
        if not isinstance(found, VoxtraApp):
            raise HandlerFault(
                f"{self.handler} of {self.tenant} has no VoxtraApp named {self._name!r}",
                tenant=self.tenant,
                where=getattr(module, "__file__", self.place),
                hint=f"write {self._name} = VoxtraApp() there, or name it after the colon",
            )
        return found

    def _module(self) -> ModuleType:
        _know_peer()
        _forget_folders()
        if self.file is not None:
            if not self.file.is_file():
                raise HandlerFault(
                    f"the handler file of {self.tenant} does not exist",
                    tenant=self.tenant,
                    where=str(self.file),
                    hint=f"is it there, by that name? voxtractl tenant show {self.tenant}",
                )
            self._begin()
            stem = self.file.stem if self.file.stem.isidentifier() else "handler"
            name = f"{self.package}.{stem}"
            return _run(_spec(name, str(self.file), self), name)
        if self._owns(self.place.partition(".")[0]):
            self._begin()
            return importlib.import_module(f"{self.package}.{self.place}")
        found = importlib.util.find_spec(self.place)
        if found is None or found.origin is None:
            raise HandlerFault(
                f"there is no module {self.place} for {self.tenant}",
                tenant=self.tenant,
                where=self.place,
                hint="is it installed?",
            )
        # Under its own name, so that relative imports lead to its package, which all share; this module is
        # another object for each tenant.
        return _run(importlib.util.spec_from_file_location(self.place, found.origin), self.package)

    def _begin(self) -> None:
        spec = ModuleSpec(self.package, None, is_package=True)
        spec.submodule_search_locations = self._folders
        sys.modules[self.package] = importlib.util.module_from_spec(spec)
        _PACKAGES[self.package] = self
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)

    # --- what its modules import --------------------------------------------------------------------------

    def _owns(self, name: str) -> bool:
        """A module of this name at the top is the tenant's own."""
        if name not in self._own:
            self._own[name] = self._lies_beside(name)
        return self._own[name]

    def _take_folders(self) -> None:
        """A folder below its own that it has put into sys.path is its own too: another tenant's may come
        first there."""
        below = self._folder + os.sep
        for folder in sys.path:
            if str(folder).startswith(below) and folder not in self._folders and folder not in _PATH:
                self._folders.append(folder)
                self._own.clear()

    def _lies_beside(self, name: str) -> bool:
        if name in sys.stdlib_module_names or name == "voxtractl":
            return False
        spec = PathFinder.find_spec(name, self._folders)
        if spec is None:
            return False
        # A folder without __init__.py is a package only when nothing else has its name.
        return spec.origin is not None or (name not in sys.modules and importlib.util.find_spec(name) is None)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """``__import__`` of the tenant's modules."""
        self._take_folders()
        top = name.partition(".")[0]
        if level or not self._owns(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or ())
        return module if fromlist else sys.modules[f"{self.package}.{top}"]

    def prepare(self, module: ModuleType, file: str) -> None:
        """Before a module of the tenant runs."""
        self.watch(file)
        vars(module)["__builtins__"] = self._builtins

    # --- what became of it --------------------------------------------------------------------------------

    def watch(self, file: str) -> None:
        self._stamps[file] = _stamp(file)

    def is_stale(self) -> bool:
        """One of its files has changed since it was read, or is another one."""
        if _real(self._given) != self._found:
            return True
        return any(_stamp(file) != stamp for file, stamp in list(self._stamps.items()))

    def now(self) -> object:
        """What its files are now: the same for as long as they do not change."""
        return _real(self._given), {file: _stamp(file) for file in list(self._stamps)}

    def hangs(self) -> bool:
        """Its load has begun and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def standing(self) -> str:
        """The line of the tenant's at which its load stands; the handler when it does not run."""
        frame = sys._current_frames().get((self._thread and self._thread.ident) or 0)
        while frame is not None:
            if line := self._line_in(frame, frame.f_lineno):
                return line
            frame = frame.f_back
        return str(self.file or self.place)

    def _line(self, exc: BaseException) -> str:
        """The line of the tenant's where it went wrong."""
        if isinstance(exc, SyntaxError) and exc.filename in self._stamps:
            return f"{exc.filename}:{exc.lineno}"
        found = str(self.file or self.place)
        step: TracebackType | None = exc.__traceback__
        while step is not None:
            found = self._line_in(step.tb_frame, step.tb_lineno) or found
            step = step.tb_next
        return found

    def _from_its_file(self, exc: BaseException) -> TracebackType | None:
        """The traceback without us and without Python's import."""
        step = exc.__traceback__
        while step is not None and not self._line_in(step.tb_frame, step.tb_lineno):
            step = step.tb_next
        if step is None and not (isinstance(exc, SyntaxError) and exc.filename in self._stamps):
            return exc.__traceback__
        return step

    def _line_in(self, frame: FrameType, line: int) -> str:
        file = frame.f_code.co_filename
        return f"{file}:{line}" if file in self._stamps else ""


def unload(codes: Collection[Code]) -> None:
    """Forget their modules and loggers: no call needs them any more. All at once, for it looks through those
    of everybody."""
    packages = {code.package for code in codes}
    for package in packages:
        _PACKAGES.pop(package, None)
    for known in (sys.modules, logging.root.manager.loggerDict) if packages else ():
        for name in list(known):  # a copy: other tenants' handlers load in their threads
            if name.partition(".")[0] in packages:
                known.pop(name, None)


class _Loader(SourceFileLoader):
    """Runs a module of a tenant with its own ``import``."""

    def __init__(self, name: str, file: str, code: Code) -> None:
        super().__init__(name, file)
        self._code = code

    def exec_module(self, module: ModuleType) -> None:
        self._code.prepare(module, self.path)
        super().exec_module(module)

    def get_code(self, fullname: str) -> CodeType:
        """Never from __pycache__: a file of the same second and size would be taken for the one before."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


class _Finder:
    """Finds the modules beside a handler, in the package of its tenant."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        code = _PACKAGES.get(name.partition(".")[0])
        spec = PathFinder.find_spec(name, path) if code is not None and path is not None else None
        if code is None or spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return spec
        return _spec(name, spec.origin, code, spec.submodule_search_locations)


def _spec(name: str, file: str, code: Code, folders: list[str] | None = None) -> ModuleSpec | None:
    loader = _Loader(name, file, code)
    return importlib.util.spec_from_file_location(
        name, file, loader=loader, submodule_search_locations=folders
    )


def _run(spec: ModuleSpec | None, name: str) -> ModuleType:
    """A new module, known as ``name``: pickle and dataclasses look it up there."""
    assert spec is not None  # noqa: S101  it has a loader, or was found
    assert spec.loader is not None  # noqa: S101
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _real(path: Path) -> str:
    return os.path.realpath(path)  # Path.resolve() raises for a link that leads to itself


def _stamp(file: str) -> object:
    """Which file it is and when it was changed last, of a folder what can be imported there: a database in it
    changes all the time. None when there is none."""
    try:
        known = Path(file).stat()
        found = _Stamp(known.st_dev, known.st_ino, known.st_mtime_ns)
        return _modules(file, found) if stat.S_ISDIR(known.st_mode) else found
    except OSError:
        return None


@lru_cache(maxsize=64)
def _modules(folder: str, _: _Stamp) -> int:
    """Another number for other modules in it; asked for once when many tenants have the folder."""
    with os.scandir(folder) as entries:
        return hash(frozenset(one.name for one in entries if one.name.endswith(SUFFIXES) or one.is_dir()))


def _forget_folders() -> None:
    """Look into folders again: a file may have come a moment ago. Handlers are loaded in several threads, and
    what one imports meanwhile can change the table this walks through."""
    for _ in range(10):
        with suppress(RuntimeError):
            importlib.invalidate_caches()
            return


def _know_peer() -> None:
    """``from voxtra import VoxtraApp`` finds this package, unless that library is installed."""
    with _PEER_LOCK:
        if PEER in sys.modules or importlib.util.find_spec(PEER) is not None:
            return
        from voxtractl.runtime import peer

        for name, promised in peer.MODULES.items():
            module = ModuleType(name, "voxtractl under the name that handlers of the voxtra library import")
            vars(module).update(promised, __all__=[*promised], __getattr__=_stranger(name))
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


def _stranger(module: str) -> Any:
    def __getattr__(name: str) -> object:
        if name.startswith("__"):  # Python itself asks
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ImportError(
            f"voxtractl stands in for {PEER} and has no {module}.{name}; docs/handlers.md tells what it has",
            name=module,
        )

    return __getattr__
