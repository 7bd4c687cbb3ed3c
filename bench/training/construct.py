"""Objects from names and settings: a registry's entry or a dotted path, its settings checked against its signature."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.records.errors import CodeError, UserError, unknown


def resolve(kind: str, registry: Mapping[str, Any], name: str) -> Any:
    """The registry's entry, or the object at a dotted path `package.module:attribute`; UserError where there is none."""
    if name in registry:
        return registry[name]
    if ":" not in name:
        raise unknown(kind, name, registry)
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise CodeError(f"{kind} {name!r} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # the user's module ran and failed
        raise CodeError(f"{kind} {name!r} fails on import: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UserError(f"{kind} {name!r} is not a class or a function")
    return found


def construct(kind: str, make: Callable[..., Any], settings: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Call `make` with the harness's arguments (`given`) and the settings, both checked against its signature."""
    parameters = parameters_of(kind, make)
    lacking = [name for name in given if name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values())]
    if lacking:
        raise UserError(f"{kind} takes no {lacking[0]!r}, which is required; it takes: {', '.join(parameters) or 'nothing'}")
    allowed = {name: p for name, p in parameters.items() if name not in given and p.kind is p.KEYWORD_ONLY}
    for name in settings:
        if name not in allowed:
            if name in parameters and name not in given:
                raise UserError(f"{kind} setting {name!r} must be a keyword-only parameter")
            raise unknown(f"{kind} setting", name, allowed) if allowed else UserError(f"{kind} has no settings, got {name!r}")
    missing = [name for name, p in allowed.items() if p.default is p.empty and name not in settings]
    if missing:
        raise UserError(f"{kind} needs the setting {missing[0]!r}")
    checked = {name: _checked(f"{kind} setting {name!r}", allowed[name].annotation, value) for name, value in settings.items()}
    try:
        return make(**given, **checked)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind}: {error}") from error


def parameters_of(kind: str, make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a signature, with annotations evaluated where they are text."""
    try:
        return inspect.signature(make, eval_str=True).parameters
    except Exception as error:  # no signature, or an invalid annotation
        raise UserError(f"{kind} has no usable signature: {type(error).__name__}: {error}") from error


def _checked(what: str, annotation: Any, value: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return value
    try:
        return TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{what}: {error.errors()[0]['msg']}, got {value!r}") from error
