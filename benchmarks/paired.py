"""Comparisons that hold on a busy machine: two figures side by side, many times, and medians."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any


@dataclass
class Pair:
    """Figures taken in pairs, plain and ours: medians, and quartiles of what differs."""

    taken: list[tuple[float, float]]

    @property
    def plain(self) -> float:
        """The plain figure."""
        return median(plain for plain, _ in self.taken)

    @property
    def ours(self) -> float:
        """Our figure."""
        return median(ours for _, ours in self.taken)

    @property
    def more(self) -> float:
        """Ours minus plain."""
        return median(ours - plain for plain, ours in self.taken)

    @property
    def ratio(self) -> float:
        """Ours over plain."""
        return median(ours / plain for plain, ours in self.taken)

    @property
    def more_spread(self) -> tuple[float, float]:
        """The quartiles of ours minus plain."""
        return _quartiles([ours - plain for plain, ours in self.taken])

    @property
    def ratio_spread(self) -> tuple[float, float]:
        """The quartiles of ours over plain."""
        return _quartiles([ours / plain for plain, ours in self.taken])


def _quartiles(figures: list[float]) -> tuple[float, float]:
    low, _, high = quantiles(figures, n=4, method="inclusive")
    return low, high


def pair(plain: Callable[[], float], ours: Callable[[], float], rounds: int) -> Pair:
    """Take the two figures in turn, each first in every other round."""
    taken = []
    for number in range(rounds):
        if number % 2:
            second = ours()
            taken.append((plain(), second))
        else:
            taken.append((plain(), ours()))
    return Pair(taken)


def nanoseconds(statement: str, calls: int, **names: Any) -> Callable[[], float]:
    """A figure: the time of one statement, from a loop of this many."""
    timer = timeit.Timer(statement, globals=names)
    return lambda: timer.timeit(calls) / calls * 1e9
