"""What probes are given to tell the symptom of a bug from a fault of their own."""

from __future__ import annotations

import pytest

from zoo_hooks.model import Verdict, symptom


def probe(call):
    with symptom(TypeError, "not subscriptable"):
        call()
        return Verdict.FIXED
    return Verdict.AFFECTED


def test_the_symptom_is_told_from_what_the_probes_own_call_raises():
    """Kind and words must both fit; anything else goes on to the engine, which says UNKNOWN."""
    assert probe(lambda: None) is Verdict.FIXED
    assert probe(lambda: None[0]) is Verdict.AFFECTED
    for call, kind in ((lambda: probe(past=1), TypeError), (lambda: {}["not subscriptable"], KeyError)):
        with pytest.raises(kind):
            probe(call)
