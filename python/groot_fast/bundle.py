"""Where the installed program has its modules from: one file with the byte code of everything a command may import.

Written by `scripts/make-launcher`, and run before anything else of the package is there, so it imports nothing of it. Finding,
opening and checking modules one by one takes as long as a warm command; what every command needs (*warm* modules) is run
straight from the file, in the order in which the modules need each other, and the import system is not asked at all. Other
modules are found when they are imported.

The file: the marshalled tuple that the launcher loads (this module and a table of the warm ones), the marshalled codes of the
warm modules, some at once, in the order in which they run, the marshalled index of the others, their marshalled code. It belongs
to one build of the interpreter; another one leaves it alone and imports as usual.
"""

from __future__ import annotations

import marshal
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from _imp import create_dynamic, exec_dynamic
from posix import pread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    Warm = tuple[int, tuple[tuple[str, bool, str], ...]]
    """Bytes of the codes of some modules, and of each its name, whether it is a package, source file."""
    Index = dict[str, tuple[bool, str, int, int]]
    """By name: whether it is a package, source file, offset behind the index, bytes (0: an extension module)."""


class Bundle:
    """Finds and loads what is in the file."""

    def __init__(self, file: int, index_at: int, index_bytes: int) -> None:
        """``file`` is a descriptor that stays open: an update replaces the file while commands run."""
        self._file = file
        self._index_at = index_at
        self._index_bytes = index_bytes
        self._index: Index | None = None

    def run(self, warm: tuple[Warm, ...], offset: int) -> None:
        """Run these modules, each behind those it imports; their codes begin at ``offset``. An extension module has None for one."""
        for size, modules in warm:
            codes = marshal.loads(pread(self._file, size, offset))
            offset += size
            for (name, is_package, source), code in zip(modules, codes, strict=True):
                self._run_one(self._spec(name, is_package, source, is_extension=code is None), source, code)

    def _run_one(self, spec: ModuleSpec, source: str, code: CodeType | None) -> None:
        module = create_dynamic(spec) if code is None else type(sys)(spec.name)
        module.__spec__ = spec
        module.__file__ = source
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        sys.modules[spec.name] = module
        if code is None:
            exec_dynamic(module)
        else:
            exec(code, module.__dict__)
        parent, _, last = spec.name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)

    def _spec(self, name: str, is_package: bool, source: str, *, is_extension: bool) -> ModuleSpec:
        loader: Any = ExtensionFileLoader(name, source) if is_extension else self
        spec = ModuleSpec(name, loader, origin=source)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [source.rpartition("/")[0]]
        return spec

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A finder's part (`sys.meta_path`)."""
        if self._index is None:
            self._index = marshal.loads(pread(self._file, self._index_bytes, self._index_at))
        found = self._index.get(name)
        if found is None:
            return None
        is_package, source, _, size = found
        return self._spec(name, is_package, source, is_extension=size == 0)

    def create_module(self, spec: ModuleSpec) -> None:
        """A loader's part: an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """A loader's part: run the code in the module."""
        assert self._index is not None
        _, _, offset, size = self._index[module.__name__]
        code = marshal.loads(pread(self._file, size, self._index_at + self._index_bytes + offset))
        exec(code, module.__dict__)


def install(file: int, warm_at: int, warm: tuple[Warm, ...], index_bytes: int) -> None:
    """Run the warm modules and let the others be found, behind what the interpreter has built in."""
    # Known before a module runs, which may import something that is not warm.
    bundle = Bundle(file, warm_at + sum(size for size, _ in warm), index_bytes)
    sys.meta_path.insert(2, bundle)
    bundle.run(warm, warm_at)
