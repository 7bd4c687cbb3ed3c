"""Keep the source code of the project's and the user's modules as this process imported it.

A run's id contains digests of the user's modules; an edit while a suite runs must not give later runs other numbers under the same
id. So the compiled bytes are kept here and digested (`bench.records.identity`), and a job carries the user's modules to the process
that executes it. Cached bytecode is not used: it is stale after two edits within a second.
"""

import importlib.util
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader, all_suffixes
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any, NamedTuple

OURS = ("deq", "baselines", "bench")


class Source(NamedTuple):
    """A module's file and its content."""

    path: str
    content: bytes


_imported: dict[str, Source] = {}  # what was compiled
_fixed: dict[str, Source] = {}  # what a later import will compile
_importing: list[tuple[str, float]] = []  # the user's modules under import, and since when
_loads = 0


def loads() -> int:
    """The number of imports so far; a cache of what depends on imported modules is valid until the next."""
    return _loads


def importing() -> tuple[str, float] | None:
    """The user's module that is being imported and since when (time.monotonic); None without one."""
    return _importing[0] if _importing else None


def is_ours(module: str) -> bool:
    """Whether the module is the project's own."""
    return module.partition(".")[0] in OURS


def source_of(module: str) -> Source | None:
    """The source of a module of the project or the user, as imported or as a later import will compile it; None for other modules.

    UserError where it cannot be read.
    """
    found = _imported.get(module) or _fixed.get(module)
    if found is None:
        file = _file(module)
        if file is None:
            return None
        found = Source(file, _read(module, file))
        (_imported if module in sys.modules else _fixed)[module] = found
    return found


def line_of_user(error: BaseException) -> str | None:
    """The innermost line of the user's code that an exception or its causes passed, as `file.py:12`; None without one."""
    found, one = None, error
    while one is not None:
        for frame, number in walk_tb(one.__traceback__):
            module = str(frame.f_globals.get("__name__"))
            if module in _imported and not is_ours(module):
                found = f"{Path(frame.f_code.co_filename).name}:{number}"
        one = one.__cause__  # type: ignore[assignment]
    return found


def users(modules: Iterable[str]) -> dict[str, Source]:
    """The sources of the user's modules, without compiled ones."""
    found = {name: source_of(name) for name in modules}
    return {name: source for name, source in found.items() if source is not None and source.path.endswith(".py")}


def fix(sources: Mapping[str, Source]) -> None:
    """Make later imports compile these sources instead of the files."""
    _fixed.update({name: source for name, source in sources.items() if name not in _imported})


class _Loader(SourceFileLoader):
    """Compile a module from its fixed source or its file, and keep the source."""

    def get_code(self, fullname: str) -> Any:
        global _loads
        found = _fixed.pop(fullname, None) or Source(self.path, self.get_data(self.path))
        _imported[fullname] = found
        _loads += 1
        return self.source_to_code(found.content, self.path)

    def exec_module(self, module: ModuleType) -> None:
        if is_ours(module.__name__):
            super().exec_module(module)
            return
        _importing.append((module.__name__, time.monotonic()))
        try:
            super().exec_module(module)
        finally:
            _importing.pop()


class _Finder:
    """Find what the later finders find; load the project's and the user's modules by `_Loader`."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in _fixed:
            file = _fixed[name].path
            return importlib.util.spec_from_file_location(name, file, loader=_Loader(name, file))
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if type(spec.loader) is SourceFileLoader and _counts(name, spec.loader.path):
                    spec.loader = _Loader(name, spec.loader.path)
                return spec
        return None


def install() -> None:
    """Keep the source of later imports; a second call does nothing."""
    if _Finder not in sys.meta_path:
        names = [getattr(finder, "__name__", "") for finder in sys.meta_path]
        # After pytest's finder, which rewrites the modules of tests.
        sys.meta_path.insert(names.index("PathFinder") if "PathFinder" in names else len(names), _Finder)


@cache
def _file(module: str) -> str | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(module)
        except Exception:  # its parent package may fail on import
            return None
        file = spec.origin if spec is not None else None
    return file if file is not None and _counts(module, file) else None


def _counts(module: str, file: str) -> bool:
    """Whether the module is the project's or the user's: not built in, of the standard library or an installed package."""
    if not file.endswith(tuple(all_suffixes())):
        return False
    top, parts = module.partition(".")[0], Path(file).parts
    return is_ours(module) or not (top in sys.stdlib_module_names or {"site-packages", "dist-packages"} & set(parts))


def _read(module: str, file: str) -> bytes:
    with suppress(OSError):
        return Path(file).read_bytes()
    loader = getattr(getattr(sys.modules.get(module), "__spec__", None), "loader", None)  # of a zip file
    with suppress(ImportError, AttributeError):
        return str(loader.get_source(module)).encode()  # type: ignore[union-attr]
    from bench.records.errors import UserError  # imported by the installed loader, so that its source is kept too

    raise UserError(f"the code of module {module} cannot be read ({file}): a run's id needs it")
