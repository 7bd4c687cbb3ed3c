"""An experiment as data: what it measures, in which units and settings, and its parts, each of which is made on its own."""

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bench.errors import one_line
from bench.experiments.models import Models, Untrained
from bench.spec import Spec

_PACKAGE = __name__.rpartition(".")[0]
_PLANS = (__name__, f"{_PACKAGE}.scale")  # what they say is in a part's arguments


class Contended(Exception):
    """Nothing was timed, since other work ran beside every try; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One row of an experiment: whose it is (task, model, seed), and what follows it with which trainings.

    `follow(models, *arguments)` gives the row's values, as plain JSON; it is a function of a module of this package, whose code
    decides whether the row has to be made anew. `trains`: it wants the models of its specs, which else say what it depends on.
    `alone`: it is timed, so that nothing else may run meanwhile; what was contended is made again in the next call.
    """

    subject: Mapping[str, str | int]
    follow: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    specs: tuple[Spec, ...]
    trains: bool = True
    alone: bool = False

    def values(self, models: Models) -> tuple[dict[str, Any] | None, str | None]:
        """The row's values; or None and why there are none."""
        try:
            return self.follow(models, *self.arguments), None
        except (Contended, Untrained, torch.linalg.LinAlgError) as error:
            return None, one_line(str(error))

    def made_by(self, models: Models) -> str:
        """The digest of all that decides the values: arguments, trainings, data, code, and what of the machine decides digits."""
        trainings = [(spec.key, models.identity(spec).digest) for spec in self.specs]
        content = json.dumps([dict(self.subject), repr(self.arguments), trainings, _code(self.follow.__module__)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is `measured`, in words; the `units` of what is in the values; the `settings` that all parts share."""

    name: str
    measured: str
    units: Mapping[str, str]
    settings: Mapping[str, Any]
    parts: tuple[Part, ...]


def _code(module: str) -> dict[str, str]:
    """Digests of a module and of those of this package that it takes things from."""
    return {name: _digest(Path(str(sys.modules[name].__file__))) for name in sorted(_closure(module))}


def _closure(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _sources(sys.modules[name]) if other.startswith(f"{_PACKAGE}.") and other not in _PLANS]
    return found


def _sources(module: ModuleType) -> Iterator[str]:
    for value in vars(module).values():
        yield value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))


def _digest(path: Path) -> str:
    """Of what the code means: comments and layout change nothing."""
    return hashlib.sha256(ast.dump(ast.parse(path.read_bytes())).encode()).hexdigest()[:12]
