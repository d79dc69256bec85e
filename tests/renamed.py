"""What probes and repairs make of an upstream that has renamed parameters.

In each world a function that a probe calls or reads, or all that a repair changes, has other names for its
parameters: plainly, and callers upstream have followed; or behind a decorator that takes the old names too.
There the engine has to come to the status that it comes to here, or to UNKNOWN, and the canary to the right
figure. In a further world a function wants an argument more: the TypeError of that is no bug's symptom.

Run as a program, in a process without the hooks, with a file for what was seen and the ids of patches.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import logging
import opcode
import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import FunctionType, ModuleType

from conftest import exists

from zoo_hooks import catalogue, engine
from zoo_hooks.changes import Changes
from zoo_hooks.model import Status
from zoo_hooks.patches import _known

_known.verdict = lambda *_, **__: None  # code with other names has another text
STEADY = {*sys.stdlib_module_names, "zoo_hooks", "torch", "numpy", "renamed", "__main__"}
"""No upstreams: they are called as their documentation says."""
NEW = "renamed_{}".format
MORE, ALL = "wanting one argument more", "all that is repaired"
_read: list[FunctionType] | None = None


def package(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0]


def public(code):
    """Tell a function that is known by its name from what a decorator has put around it."""
    if code.co_name == _around.__name__:
        return False
    return (
        "<locals>" not in getattr(code, "co_qualname", "") or code.co_filename == "<string>"
    )  # a dataclass's


def by_a_patch(frame):
    """Tell whether it is a patch that calls or reads at a frame, perhaps by way of torch."""
    while frame is not None and (package(frame) in STEADY or not public(frame.f_code)):
        if package(frame) == "zoo_hooks":
            return True
        frame = frame.f_back
    return False


def upstreams(function):
    """Tell whether a function is an upstream's own, and one that is called by somebody."""
    if getattr(function, "__name__", None) == "__getattribute__":
        return False
    home = (getattr(function, "__module__", None) or "").partition(".")[0]
    return isinstance(function, FunctionType) and home not in STEADY and public(function.__code__)


def _audit(event, args):
    reads = _read is not None and event == "object.__getattr__" and args[1] == "__code__"
    if reads and by_a_patch(sys._getframe(1)):
        _read.append(args[0])


sys.addaudithook(_audit)  # for good: there is no way to remove one


def asked(probe):
    """The functions of upstreams that a probe calls, and those whose code it reads."""
    global _read
    codes = set()

    def profile(frame, event, _):
        if event == "call" and package(frame) not in STEADY and by_a_patch(frame.f_back):
            codes.add(frame.f_code)

    _read = read = []
    sys.setprofile(profile)
    try:
        probe()
    finally:
        sys.setprofile(None)
        _read = None
    holders = gc.get_referrers(*codes) if codes else []
    called = [one for one in holders if isinstance(one, FunctionType) and one.__code__ in codes]
    return [[one for one in dict.fromkeys(some) if upstreams(one)] for some in (called, read)]


def innermost(raw):
    """The function at the bottom of what stands under a name, or None."""
    raw = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
    return inspect.unwrap(raw) if isinstance(raw, FunctionType) else None


def parameters(function):
    """Names of parameters, without that of the object or class."""
    code = function.__code__
    return {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]} - {"self", "cls"}


@contextlib.contextmanager
def kept(function):
    """Let a function be changed, for all who have it, for the length of a with-block."""
    names = "__code__", "__kwdefaults__", "__annotations__", "__dict__"
    before = {name: getattr(function, name) for name in names}
    function.__dict__ = dict(function.__dict__)
    try:
        yield
    finally:
        for name in names:
            setattr(function, name, before[name])


def rename(function, names):
    """Give parameters other names."""

    def new(name):
        return NEW(name) if name in names else name

    code = function.__code__
    function.__code__ = code.replace(
        co_varnames=tuple(map(new, code.co_varnames)), co_cellvars=tuple(map(new, code.co_cellvars))
    )
    function.__annotations__ = {new(key): value for key, value in function.__annotations__.items()}
    if function.__kwdefaults__:
        function.__kwdefaults__ = {new(key): value for key, value in function.__kwdefaults__.items()}


def _around(*args, **kwargs):
    call = "call"
    return call(*args, **kwargs)


def decorate(function, make):
    """Put ``make(function)`` around it, as functools.wraps does."""
    code, scope = function.__code__, function.__globals__
    inner = FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)
    inner.__kwdefaults__, inner.__annotations__ = function.__kwdefaults__, function.__annotations__
    inner.__qualname__ = function.__qualname__
    inner.__dict__.update(function.__dict__)
    call = make(inner)
    constants = tuple(call if value == "call" else value for value in _around.__code__.co_consts)
    copying = opcode.opmap.get("COPY_FREE_VARS")  # without it a look at the frame's variables crashes
    first = bytes([copying, len(code.co_freevars)]) if copying and code.co_freevars else b""
    function.__code__ = _around.__code__.replace(
        co_consts=constants, co_freevars=code.co_freevars, co_code=first + _around.__code__.co_code
    )
    function.__kwdefaults__ = None
    function.__wrapped__ = inner


def following(names, *, patches):
    """Make a wrapper that takes old names too, from patches or only from all others."""

    def make(original):
        def call(*args, **kwargs):
            if not names.isdisjoint(kwargs) and (patches or not by_a_patch(sys._getframe(1))):
                kwargs = {NEW(key) if key in names else key: value for key, value in kwargs.items()}
            return original(*args, **kwargs)

        return call

    return make


def wanting_more(original):
    """Make a wrapper that wants an argument more, of which patches do not know."""

    def call(*args, **kwargs):
        if by_a_patch(sys._getframe(1)):
            raise TypeError(f"{original.__qualname__}() missing 1 required keyword-only argument: 'more'")
        return original(*args, **kwargs)

    return call


def recording(passed):
    """Make a wrapper that collects the names by which others than patches pass arguments."""

    def make(original):
        def call(*args, **kwargs):
            if kwargs and not by_a_patch(sys._getframe(1)):
                passed.update(kwargs)
            return original(*args, **kwargs)

        return call

    return make


@contextlib.contextmanager
def constructed_by(make, module, name):
    """Put ``make(class)`` in the place of a class of which only the constructor matters."""
    kind = vars(module)[name]

    class Meta(type):
        __call__ = staticmethod(make(kind))
        __getattr__ = staticmethod(partial(getattr, kind))

    changes = Changes()
    changes.replace(module, name, Meta(name, (), {}))
    try:
        yield
    finally:
        changes.undo()


class Case:
    """A patch at one of its targets, as that stands without the hooks."""

    def __init__(self, patch, target):
        self.patch, self.target = patch, target
        early = patch.when == "before"
        self.module = module_from_spec(find_spec(target)) if early else sys.modules[target]
        self.right, self.places = False, {}
        """Whether its canary is right here; and where what it repairs stands, by function."""
        self.status, self.reason = self.outcome(then=self.note)
        self.called, read = asked(self.probed)
        self.asked = dict.fromkeys([*self.called, *read])
        self.passed = {function: set() for function in {**self.asked, **self.places}}
        """The names by which callers upstream pass arguments while the probe runs."""
        with contextlib.ExitStack() as stack:
            for function, passed in self.passed.items():
                stack.enter_context(kept(function))
                decorate(function, recording(passed))
            self.probed()

    def probed(self):
        with contextlib.suppress(Exception):
            self.patch.probe(self.module)

    def note(self, changes, _):
        for layer in changes._made:
            place, function = layer.place, innermost(layer.place.found)
            if upstreams(function) and isinstance(place.owner, (type, ModuleType)):
                self.places.setdefault(function, []).append((place.owner, place.name))
        with contextlib.suppress(Exception):  # some need other patches too
            self.right = self.patch.canary().healthy

    def outcome(self, renamed=(), *, decorated=False, then=None):
        """What the engine makes of it, callers upstream having followed, and ``then`` while it lasts."""

        def repair(module, changes):
            self.patch.repair(module, changes)
            if not decorated:
                self.follow(changes, [one for one in renamed if one[1] & self.passed[one[0]]], patches=False)

        outcome = engine._attempt(replace(self.patch, repair=repair), self.target, self.module, Changes())
        if outcome.changes:
            try:
                if then:
                    then(outcome.changes, renamed)
            finally:
                outcome.changes.undo()
        return outcome.status, outcome.reason

    def follow(self, changes, renamed, *, patches):
        """Have what is repaired called by new names."""
        for function, names in renamed:
            for owner, name in self.places.get(function, ()):
                changes.wrap(owner, name, following(names, patches=patches))

    def worlds(self):
        """Each by its name, and what it is entered by."""
        for function in self.asked:
            names, called = parameters(function), function.__qualname__
            for name in sorted(names):
                yield f"{called}, {name} renamed", partial(self.renamed, [(function, {name})])
            if names:
                yield f"{called}, decorated", partial(self.renamed, [(function, names)], decorated=True)
            if names and function in self.called:
                yield f"{called}, {MORE}", partial(self.wanting, function)
        for name in self.classes():
            yield f"{name}, {MORE}", partial(self.constructed, name, wanting_more)
        if some := [(function, names) for function in self.places if (names := parameters(function))]:
            yield f"{ALL}, renamed", partial(self.shown, some)
            yield f"{ALL}, decorated", partial(self.shown, some, decorated=True)

    def classes(self):
        """Names of classes that the probe calls and whose constructors are no Python functions."""
        codes = [value.__code__ for value in vars(sys.modules[self.patch.module]).values()
                 if isinstance(value, FunctionType)]  # fmt: skip
        for name in dict.fromkeys(name for code in codes for name in code.co_names):
            kind = vars(self.module).get(name)
            python = isinstance(kind, type) and isinstance(kind.__init__, FunctionType)
            if isinstance(kind, type) and not python and self.constructs(name):
                yield name

    def constructs(self, name):
        calls = set()

        def note(*_, **__):
            calls.add(by_a_patch(sys._getframe(1)))

        self.constructed(name, lambda _: note)
        return True in calls

    def shown(self, renamed, *, decorated=False):
        """With the canary too, where it is right here."""

        def then(changes, renamed):
            self.follow(changes, renamed, patches=True)
            figure = self.patch.canary()
            assert figure.healthy, f"the canary gives {figure.value}"

        return self.renamed(renamed, decorated=decorated, then=then if self.right else None)

    def renamed(self, renamed, *, decorated=False, then=None):
        with contextlib.ExitStack() as stack:
            for function, names in renamed:
                stack.enter_context(kept(function))
                rename(function, names)
                if decorated or names & self.passed[function]:
                    decorate(function, following(names, patches=decorated))
            return self.outcome(renamed, decorated=decorated, then=then)

    def wanting(self, function):
        with kept(function):
            decorate(function, wanting_more)
            return self.outcome()

    def constructed(self, name, make):
        with constructed_by(make, self.module, name):
            return self.outcome()

    def seen(self):
        """What must not be, by world; None where all is well."""
        if self.status is Status.FAILED:
            return {"as it stands": self.reason}
        found = {world: self.fault(enter) for world, enter in self.worlds()}
        for how in ("renamed", "decorated"):
            if found.get(f"{ALL}, {how}") and len(self.places) > 1:  # which of them
                for function in self.places:
                    enter = partial(
                        self.shown, [(function, parameters(function))], decorated=how == "decorated"
                    )
                    found[f"{function.__qualname__} alone, {how}"] = self.fault(enter)
        return found

    def fault(self, enter):
        try:
            status, reason = enter()
        except Exception as error:  # noqa: BLE001 - the canary's, which is told of
            status, reason = Status.FAILED, f"canary: {type(error).__name__}: {error}"
        return None if status in (self.status, Status.UNKNOWN) else f"{status.name}: {reason}"


def imported(patch):
    """The patch's targets that this environment has, imported, and what it waits for."""
    targets = [target for target in patch.targets if all(map(exists, (target, *patch.requires)))]
    for name in (*(targets if patch.when == "after" else ()), *(patch.requires if targets else ())):
        import_module(name)
    return targets


def seen(patches):
    """For each patch its worlds, at each target; None if one cannot be imported without the hooks."""
    targets, found = {}, {}
    for patch in patches:
        found[patch.id] = None
        with contextlib.suppress(Exception):  # what other patches mend
            targets[patch] = imported(patch)
    os.environ.pop("ZOO_HOOKS", None)  # the engine reads it
    for patch, some in targets.items():
        worlds = [(target, Case(patch, target).seen()) for target in some]
        found[patch.id] = {
            f"{target}: {world}": fault for target, one in worlds for world, fault in one.items()
        }
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    file, *patches = sys.argv[1:]
    Path(file).write_text(json.dumps(seen([catalogue.get(patch) for patch in patches])))
