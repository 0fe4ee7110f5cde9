"""Bugs planted on purpose: a fresh copy of the package in which one line is another one. Only tests can do this."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


@dataclass(frozen=True)
class Seeds:
    """One of the first ``count`` seeds of the simulator, with a mix of their own or with these faults a second."""

    count: int
    rates: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Transcript:
    """``tests/replication/testdata/scenarios/<name>.txt`` comes out differently."""

    name: str


@dataclass(frozen=True)
class Directed:
    """The function ``name`` of `scenarios` raises."""

    name: str


@dataclass(frozen=True)
class Mutant:
    """``before`` stands once in ``module`` and is replaced by ``after``; ``caught_by`` notices that."""

    name: str
    module: str
    before: str
    after: str
    caught_by: Seeds | Transcript | Directed


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text()
        found = source.count(self._mutant.before)
        if found != 1:
            raise LookupError(f"{self._mutant.name}: its line stands {found} times in {fullname}, not once")
        return compile(source.replace(self._mutant.before, self._mutant.after), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self._mutant.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            raise LookupError(f"{self._mutant.name}: there is no module {fullname}")
        return importlib.util.spec_from_file_location(fullname, loader=_Loader(self._mutant, found.origin))


@contextlib.contextmanager
def planted(mutant: Mutant | None) -> Iterator[None]:
    """Within the block, ``import ringlog…`` gives a copy with the bug; afterwards everything is as it was."""

    def ours(name: str) -> bool:
        return name.partition(".")[0] in ("ringlog", "replication")

    before = {name: sys.modules.pop(name) for name in list(sys.modules) if ours(name)}
    finder = _Finder(mutant) if mutant else None
    if finder:
        sys.meta_path.insert(0, finder)
    try:
        if mutant:
            importlib.import_module(mutant.module)  # so that a bug that cannot be planted is an error here, not a catch
        yield
    finally:
        if finder:
            sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def fresh(name: str) -> Any:
    """The module ``name`` as it is within the block."""
    return importlib.import_module(name)
