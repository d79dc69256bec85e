"""What probes are given to tell the symptom of a bug from a fault of their own."""

from __future__ import annotations

import functools

import pytest

from zoo_hooks.model import Verdict, symptom


def probe(call):
    with symptom(TypeError, "not subscriptable"):
        call()
        return Verdict.FIXED
    return Verdict.AFFECTED


def none(value=None):
    return value[0]


def test_the_symptom_is_told_from_what_the_probes_own_call_raises():
    """Kind and words must both fit; anything else goes on to the engine, which says UNKNOWN."""
    assert probe(lambda: None) is Verdict.FIXED
    assert probe(none) is Verdict.AFFECTED
    for call, kind in ((lambda: probe(past=1), TypeError), (lambda: {}["not subscriptable"], KeyError)):
        with pytest.raises(kind):
            probe(call)


def test_the_symptom_can_be_asked_of_the_innermost_function():
    """The same words from what it calls, or from the call itself, are not the bug's."""

    def calls():
        none()

    @functools.wraps(none)
    def wrapped():
        none()

    with symptom(TypeError, "not subscriptable", by=wrapped):
        wrapped()
    for by in (calls, len):
        with pytest.raises(TypeError), symptom(TypeError, "not subscriptable", by=by):
            calls()
