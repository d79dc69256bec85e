"""Known code is recognised by its text, alone or under a repair, and nothing else is."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import inspect
import json.decoder
import tokenize
import types

import pytest

from zoo_hooks.model import Verdict
from zoo_hooks.patches import _known

SOURCE = """
import functools
def through(f):
    @functools.wraps(f)
    def wrapper(*args):
        return f(*args)
    return wrapper
def plain(a):
    return a{more}
@through
def decorated(a):
    return [b for b in (lambda: a)()]
"""


def load(folder, name, source):
    file = folder / f"{name.partition('.')[0]}_{len(list(folder.iterdir()))}.py"
    file.write_text(source)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, file))
    module.__spec__.loader.exec_module(module)
    return module


def functions_of(*modules):
    for module in modules:
        for place in (module, *filter(inspect.isclass, vars(module).values())):
            for one in vars(place).values():
                if isinstance(one, types.FunctionType) and one.__module__ == module.__name__:
                    yield one


@pytest.mark.parametrize(
    "function",
    [*functions_of(argparse, functools, inspect, json.decoder, tokenize)],
    ids=lambda one: one.__qualname__,
)
def test_the_text_is_that_of_inspect(function):
    """From the first decorator to the last line that has code, for every function of five modules."""
    expected = inspect.getsource(inspect.unwrap(function)).encode().splitlines()
    read = _known.text(inspect.unwrap(function)).splitlines()
    rest = b"\n".join(expected[len(read) :])
    assert read == expected[: len(read)]
    assert not rest or compiles_to_nothing(expected, len(read)), rest


def compiles_to_nothing(lines, count):
    """What ``inspect`` adds are brackets, comments and strings without an instruction of their own."""
    import textwrap

    text = textwrap.dedent(b"\n".join(lines).decode())
    (code,) = (one for one in compile(text, "", "exec").co_consts if isinstance(one, types.CodeType))
    return _known._last_line(code) <= count


def test_a_function_that_has_the_text_is_known_whatever_is_around_it(tmp_path):
    """Another file, other lines before it; not with another line of code, nor in another order."""
    first, second = (load(tmp_path, "upstream.a", "\n" * n + SOURCE.format(more="")) for n in (0, 9))
    other = load(tmp_path, "upstream.a", SOURCE.format(more=" or 0"))
    assert _known.digest(first.plain) == _known.digest(second.plain) != _known.digest(other.plain)
    assert _known.digest(first.decorated) == _known.digest(other.decorated)
    assert _known.digest(first.plain, first.decorated) != _known.digest(first.decorated, first.plain)


def test_the_same_text_in_another_package_is_another_function(tmp_path):
    """A copy that another library has put in its place, or a wrapper of another library over it."""
    theirs, ours, others = (
        load(tmp_path, name, SOURCE.format(more="")) for name in ("upstream.a", "upstream.b", "other.c")
    )
    assert _known.digest(theirs.plain) == _known.digest(ours.plain) != _known.digest(others.plain)
    assert _known.digest(theirs.through(theirs.plain)) != _known.digest(others.through(theirs.plain))


def test_code_with_the_bug_is_fixed_under_all_of_the_wrappers_of_its_repair(tmp_path):
    """Under some of them, or under another wrapper too, it has to be run."""
    upstream = load(tmp_path, "upstream.a", SOURCE.format(more=""))
    wrap = load(tmp_path, "zoo_hooks.patches.upstream.bug", SOURCE.format(more="")).through
    foreign = load(tmp_path, "other", SOURCE.format(more="")).through
    parts = (upstream.plain, upstream.decorated)
    known = {_known.digest(*parts): Verdict.AFFECTED}
    assert _known.verdict(known, *parts, repaired=2) is Verdict.AFFECTED
    assert _known.verdict(known, *map(wrap, parts), repaired=2) is Verdict.FIXED
    assert _known.verdict(known, wrap(parts[0]), parts[1]) is Verdict.FIXED
    assert _known.verdict(known, wrap(parts[0]), parts[1], repaired=2) is None
    assert _known.verdict(known, parts[0], wrap(parts[1]), repaired=2) is None
    assert _known.verdict(known, foreign(wrap(parts[0])), wrap(parts[1]), repaired=2) is None
    assert _known.verdict(known, wrap(foreign(parts[0])), wrap(parts[1]), repaired=2) is None
    assert _known.verdict({_known.digest(*parts): Verdict.FIXED}, *parts) is Verdict.FIXED
    assert _known.verdict({}, *parts) is None


def test_what_has_no_text_is_not_known(tmp_path):
    """A function in C, one that was compiled from a string, and none at all."""
    made = {}
    exec("def f(): pass", made)
    for one in (len, made["f"], None, types.SimpleNamespace()):
        assert _known.digest(one) == ""
        assert _known.verdict({_known.digest(_known.digest): Verdict.FIXED}, one) is None
        with pytest.raises(OSError, match=r"no source|No such file"):
            _known.text(one)
