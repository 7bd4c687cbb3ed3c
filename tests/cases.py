"""Which cases of a test run by default, and which in `make test-all` alone."""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pytest


def exhaustive(*cases: Any) -> list[Any]:
    """Cases for `make test-all` alone; a tuple is one case of several values."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive) for case in cases]


def few(cases: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """All the cases, of which those that are not kept are for `make test-all` alone."""
    return [case if case in kept else exhaustive(case)[0] for case in cases]


def cover(*axes: Sequence[Any], possible: Callable[..., bool] = lambda *_: True) -> list[tuple[Any, ...]]:
    """Possible combinations, few, such that each value of each axis is in one of those."""
    places = [found for found in itertools.product(*(range(len(axis)) for axis in axes)) if possible(*_at(axes, found))]
    missing = {(axis, place) for found in places for axis, place in enumerate(found)}
    kept = []
    while missing:
        kept.append(max(places, key=lambda found: len(missing & set(enumerate(found)))))
        missing -= set(enumerate(kept[-1]))
    return [_at(axes, found) for found in kept]


def product(*axes: Sequence[Any], possible: Callable[..., bool] = lambda *_: True) -> list[Any]:
    """Every possible combination, of which those that run by default are a cover."""
    kept = cover(*axes, possible=possible)
    return few([combination for combination in itertools.product(*axes) if possible(*combination)], kept)


def _at(axes: Sequence[Sequence[Any]], places: Iterable[int]) -> tuple[Any, ...]:
    return tuple(axis[place] for axis, place in zip(axes, places, strict=True))
