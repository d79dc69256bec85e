"""Comparisons that hold on a busy machine: two figures side by side, many times, and medians."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass
class Pair:
    """The medians of a plain figure, of ours, of ours minus plain, and of ours over plain."""

    plain: float
    ours: float
    more: float
    ratio: float


def pair(plain: Callable[[], float], ours: Callable[[], float], rounds: int) -> Pair:
    """Take the two figures in turn, each first in every other round."""
    taken = []
    for number in range(rounds):
        if number % 2:
            second = ours()
            taken.append((plain(), second))
        else:
            taken.append((plain(), ours()))
    return Pair(
        median(a for a, _ in taken),
        median(b for _, b in taken),
        median(b - a for a, b in taken),
        median(b / a for a, b in taken),
    )


def nanoseconds(statement: str, calls: int, **names: Any) -> Callable[[], float]:
    """A figure: the time of one statement, from a loop of this many."""
    timer = timeit.Timer(statement, globals=names)
    return lambda: timer.timeit(calls) / calls * 1e9
