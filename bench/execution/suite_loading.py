"""Load a suite by its name or from a Python file."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

import bench.suites
from bench.records.errors import UserError, unknown
from bench.records.spec import Comparison, ComponentConfig, ModelEntry, Recipe, RunSpec, TrainConfig
from bench.suites import SUITES

Entry = RunSpec | Comparison


def load_suite(name: str, data: Mapping[str, Path]) -> tuple[str, list[Entry]]:
    """A suite's short name and its SPECS: one of the package's, or a Python file that defines SPECS.

    SPECS is a list of RunSpec and Comparison, or a function that makes one from the names given with `--data`.
    """
    is_file = name.endswith(".py")
    if is_file and Path(name).stem in SUITES and Path(name).resolve().parent != Path(bench.suites.__file__).resolve().parent:
        raise UserError(
            f"suite {name}: {Path(name).stem!r} is a suite of the package, whose records it would join: rename the file"
        )
    if not is_file and name not in SUITES:
        raise unknown("suite", name, SUITES)
    try:
        specs = getattr(_load_file(Path(name)) if is_file else importlib.import_module(SUITES[name]), "SPECS", None)
        if callable(specs):
            specs = specs(sorted(data))
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"suite {name}: {readable(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"suite {name} fails on import: {type(error).__name__}: {error}") from error
    if not isinstance(specs, list) or not specs or not all(isinstance(entry, (RunSpec, Comparison)) for entry in specs):
        raise UserError(f"suite {name}: SPECS must be a non-empty list of RunSpec and Comparison")
    return Path(name).stem, specs


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"suite file {path} does not exist")
    found = importlib.util.spec_from_file_location(f"suite_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))  # so that the suite may import models from files next to it
    found.loader.exec_module(module)
    return module


_FIELDS = {
    kind.__name__: list(kind.model_fields) for kind in (RunSpec, Comparison, TrainConfig, Recipe, ComponentConfig, ModelEntry)
}


def readable(error: ValidationError) -> str:
    """The first message of a validation error, with the field's name and the allowed ones where it is unknown."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt field also goes missing
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and error.title in _FIELDS:
        return str(unknown(f"{error.title} field", str(first["loc"][-1]), _FIELDS[error.title]))
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "missing" or not where else f", got {first.get('input')!r}"
    return f"{error.title}{f' {where}' if where else ''}: {message}{got}"
