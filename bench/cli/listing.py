"""`bench list`: what can be named in a suite, and the settings that it takes."""

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from bench.cli.inspect import print_lines, table_of
from bench.cli.options import Json
from bench.records.errors import unknown

# What the harness gives to components that ask for it; everything else that is keyword-only is a setting.
_GIVEN = {"task": {"paths"}, "adjoint": {"solver", "stop"}, "model": {"inputs", "width", "parts"}, "cell": {"inputs", "width"}}
_GIVEN["component"] = _GIVEN["model"] | _GIVEN["task"]
_ABOUT = {
    "model": "Every model takes `width` and `inputs` too. `cell.NAME`, `solver.NAME` and `adjoint.NAME` are settings of its parts.",
    "cell": "A suite names them `cell.NAME`.",
    "solver": "A suite names them `solver.NAME` or `backward_solver.NAME`.",
    "adjoint": "A suite names them `adjoint.NAME`.",
}


def list_(
    name: Annotated[str | None, typer.Argument(help="one of these, or package.module:Name: what it is, and its settings")] = None,
    as_json: Json = False,
) -> None:
    """What can be run: suites, models, tasks, cells, solvers, adjoints and corpora; with a name, its settings and defaults."""
    known = _registries()
    if name is not None:
        found = _find(name, known)
        lines = [line for one in found for line in _lines(one)]
        print_lines(found, as_json, *lines)
        return
    summaries = {kind: {key: _summary(entry) for key, entry in found.items()} for kind, found in known.items()}
    rows = [(kind, *entry) for kind, found in summaries.items() for entry in found.items()]
    hint = "`python -m bench list NAME` shows the settings of one, and of your own by its dotted path: package.module:Name"
    print_lines(summaries, as_json, table_of(("kind", "name", "what it is"), rows), "", hint)


def _registries() -> dict[str, Mapping[str, Any]]:
    from bench.suites import SUITES
    from bench.tasks.corpora import CORPORA
    from bench.training.registry import ADJOINTS, MODELS, TASKS
    from deq import CELLS, SOLVERS

    suites = {name: import_module(module) for name, module in SUITES.items()}
    return {
        **{"suite": suites, "model": MODELS, "task": TASKS, "cell": CELLS, "solver": SOLVERS, "adjoint": ADJOINTS},
        "corpus": {name: corpus.claim for name, corpus in CORPORA.items()},
    }


def _summary(entry: Any) -> str:
    """The first sentence of an entry's description."""
    return _paragraphs(entry)[0].split(". ")[0].rstrip(".")


def _paragraphs(entry: Any) -> list[str]:
    text = entry if isinstance(entry, str) else inspect.getdoc(entry) or ""
    return [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]


def _find(name: str, known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Everything of that name: its kind, description, and settings with types and defaults."""
    from bench.training.construct import parameters_of, resolve

    entries = [(kind, entries[name]) for kind, entries in known.items() if name in entries]
    if not entries and ":" not in name:
        raise unknown("name", name, {key for entries in known.values() for key in entries})
    found = []
    for kind, entry in entries or [("component", resolve("component", {}, name))]:
        settings = []
        for one in parameters_of(f"{kind} {name!r}", entry).values() if callable(entry) else ():
            if one.kind is one.KEYWORD_ONLY and one.name not in _GIVEN.get(kind, ()):
                default = "needed" if one.default is one.empty else repr(one.default)
                asked = "" if one.annotation is one.empty else inspect.formatannotation(one.annotation)
                settings.append({"setting": one.name, "type": asked, "default": default})
        found.append({"kind": kind, "name": name, "text": _paragraphs(entry), "settings": settings})
    return found


def _lines(found: Mapping[str, Any]) -> Sequence[str]:
    """What `list NAME` prints of one."""
    kind, settings = found["kind"], found["settings"]
    lines = [f"{kind} {found['name']}", ""]
    lines += [line for paragraph in found["text"] for line in (paragraph, "")]
    if settings:
        lines += [table_of(("setting", "type", "default"), [list(one.values()) for one in settings]), ""]
    elif kind not in ("suite", "corpus"):
        lines += ["It takes no settings.", ""]
    return [*lines, _ABOUT[kind], ""] if kind in _ABOUT and (settings or kind == "model") else lines
