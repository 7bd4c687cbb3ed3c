"""Choose the cases of a test that run by default; `make test-all` runs all."""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pytest


def exhaustive(*cases: Any) -> list[Any]:
    """Cases that only `make test-all` runs; a tuple is one case of several values."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive) for case in cases]


def few(cases: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """All cases; those not in `kept` are exhaustive."""
    return [case if case in kept else exhaustive(case)[0] for case in cases]


def cover(*axes: Sequence[Any], possible: Callable[..., bool] = lambda *_: True) -> list[tuple[Any, ...]]:
    """A small set of possible combinations that has every value of every axis (a greedy cover)."""
    places = [found for found in itertools.product(*(range(len(axis)) for axis in axes)) if possible(*_at(axes, found))]
    missing = {(axis, place) for found in places for axis, place in enumerate(found)}
    kept = []
    while missing:
        kept.append(max(places, key=lambda found: len(missing & set(enumerate(found)))))
        missing -= set(enumerate(kept[-1]))
    return [_at(axes, found) for found in kept]


def product(*axes: Sequence[Any], possible: Callable[..., bool] = lambda *_: True) -> list[Any]:
    """Every possible combination; those outside a cover are exhaustive."""
    kept = cover(*axes, possible=possible)
    return few([combination for combination in itertools.product(*axes) if possible(*combination)], kept)


def _at(axes: Sequence[Sequence[Any]], places: Iterable[int]) -> tuple[Any, ...]:
    return tuple(axis[place] for axis, place in zip(axes, places, strict=True))
