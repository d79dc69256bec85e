"""Each verb does what it says, and is undone exactly."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_hooks import notices
from zoo_hooks.changes import CannotRevert, Changes


class Base:
    def inherited(self):
        return "inherited"


class Owner(Base):
    attribute = 1

    def method(self, a, b=2):
        """Add."""
        return a + b

    @staticmethod
    def static(a):
        return a

    @classmethod
    def of_class(cls, a):
        return cls, a

    @property
    def prop(self):
        return "prop"


def function(a, *, b=2):
    """Add."""
    return a + b


@pytest.fixture(autouse=True)
def nothing_stays():
    """Every test leaves the class and this module exactly as they were."""
    before = dict(vars(Owner)), dict(vars(Base))
    yield
    assert (dict(vars(Owner)), dict(vars(Base))) == before


def loud(original):
    def wrapper(*args, **kwargs):
        return "loud", original(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("name", ["attribute", "method", "static", "of_class", "prop", "inherited", "new"])
def test_replace_and_undo_leave_the_very_same_raw_entry(name):
    """Descriptors come back as they were, and what the class did not have itself is gone again."""
    before = vars(Owner).get(name)
    changes = Changes()
    changes.replace(Owner, name, "ours")
    assert getattr(Owner, name) == "ours"
    assert changes.in_place
    changes.undo()
    assert vars(Owner).get(name) is before
    assert not changes.in_place


@pytest.mark.parametrize(
    ("name", "call", "result"),
    [
        ("method", lambda: Owner().method(1, b=5), 6),
        ("static", lambda: Owner.static(3), 3),
        ("of_class", lambda: Owner.of_class(4), (Owner, 4)),
        ("inherited", lambda: Owner().inherited(), "inherited"),
        ("prop", lambda: Owner().prop, "prop"),
    ],
)
def test_wrap_keeps_the_kind_of_method(name, call, result):
    """Plain, static, class and inherited methods and properties work as before, through the wrapper."""
    changes = Changes()
    changes.wrap(Owner, name, loud)
    assert call() == ("loud", result)
    assert Base().inherited() == "inherited"
    changes.undo()
    assert call() == result


def test_a_wrapped_function_looks_pickles_and_copies_like_the_original():
    """Name, docstring, signature, source and pickle by name, as users' tools expect them."""
    original = function
    changes = Changes()
    changes.wrap(sys.modules[__name__], "function", loud)
    try:
        assert function is not original
        assert isinstance(function, types.FunctionType)
        assert (function.__name__, function.__doc__) == ("function", "Add.")
        assert inspect.signature(function) == inspect.signature(original)
        assert inspect.getsource(function) == inspect.getsource(original)
        assert pickle.loads(pickle.dumps(function)) is function
        assert copy.deepcopy(function) is function
    finally:
        changes.undo()
    assert function is original


def test_rebind_reaches_every_module_that_copied_the_name():
    """``from x import f`` elsewhere gets the new object too, under whatever name, and loses it again."""
    one, two = types.ModuleType("rebind_one"), types.ModuleType("rebind_two")
    old, new = object(), object()
    one.here, two.there, two.other = old, old, "other"
    sys.modules.update(rebind_one=one, rebind_two=two)
    changes = Changes()
    try:
        changes.rebind(old, new)
        assert (one.here, two.there, two.other) == (new, new, "other")
        changes.undo()
        assert (one.here, two.there) == (old, old)
    finally:
        del sys.modules["rebind_one"], sys.modules["rebind_two"]


def test_rebind_searches_every_module_that_can_have_copied_a_function():
    """Later ones, lazy ones, and those whose body is still running; none that was complete before its own.

    Code that runs under a name that is none does no harm.
    """

    class Lazy(types.ModuleType):
        """As transformers' own, which keep a name when it is first asked for."""

    def old():
        """What is copied."""

    old.__module__ = "rebind_home"
    names = ["rebind_done", "rebind_lazy", "rebind_running", "rebind_home", "rebind_later"]
    modules = {name: (Lazy if name == "rebind_lazy" else types.ModuleType)(name) for name in names}
    changes, new = Changes(), object()
    sys.modules.update(modules)
    try:
        for module in modules.values():
            module.copy = old
        odd = {"__name__": [], "rebind": lambda: changes.rebind(old, new)}
        modules["rebind_running"].rebind = lambda: exec("rebind()", odd)
        exec("rebind()", vars(modules["rebind_running"]))
        assert [name for name in names if modules[name].copy is new] == names[1:]
        changes.undo()
        assert all(module.copy is old for module in modules.values())
    finally:
        for name in names:
            del sys.modules[name]


def test_a_provided_module_can_be_imported_and_vanishes():
    """It is in sys.modules and on its parent, and afterwards in neither."""
    parent = types.ModuleType("provide_parent")
    parent.__path__ = []
    sys.modules["provide_parent"] = parent
    changes = Changes()
    try:
        changes.provide("provide_parent.child", types.ModuleType("provide_parent.child"))
        from provide_parent.child import __name__ as name

        assert name == "provide_parent.child"
        changes.undo()
        assert "provide_parent.child" not in sys.modules
        assert not hasattr(parent, "child")
    finally:
        del sys.modules["provide_parent"]


def test_what_is_not_there_cannot_be_wrapped_or_provided_under():
    """A clear error, and nothing is changed."""
    changes = Changes()
    for owner in (Owner, sys.modules[__name__]):
        with pytest.raises(AttributeError, match="absent"):
            changes.wrap(owner, "absent", loud)
    with pytest.raises(KeyError, match="no_such_parent"):
        changes.provide("no_such_parent.child", types.ModuleType("child"))
    assert "no_such_parent.child" not in sys.modules
    assert not changes


def test_undo_changes_nothing_if_somebody_wrapped_ours_afterwards():
    """It says what has moved; both changes stay as they are until that is undone."""
    changes = Changes()
    changes.replace(Owner, "attribute", 2)
    changes.wrap(Owner, "method", loud)
    ours = vars(Owner)["method"]
    Owner.method = loud(ours)
    with pytest.raises(CannotRevert, match=r"Owner\.method has since been changed by other code"):
        changes.undo()
    assert Owner.attribute == 2
    Owner.method = ours
    changes.undo()


def marked(mark):
    def make(original):
        def wrapper(*args, **kwargs):
            return mark, original(*args, **kwargs)

        return wrapper

    return make


@pytest.mark.parametrize("order", list(itertools.permutations("ABC")))
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("method", lambda: Owner().method(1)),
        ("static", lambda: Owner.static(3)),
        ("of_class", lambda: Owner.of_class(4)),
        ("inherited", lambda: Owner().inherited()),
        ("prop", lambda: Owner().prop),
    ],
)
def test_wraps_of_one_function_are_undone_and_made_again_in_any_order(name, call, order):
    """The others stay, as they lay; in the end the very same object is back."""
    patches = {mark: Changes() for mark in "ABC"}
    for mark, changes in patches.items():
        changes.wrap(Owner, name, marked(mark))
    ours = vars(Owner)[name]

    def shown():
        marks, result = "", call()
        while isinstance(result, tuple) and result[0] in patches:
            mark, result = result
            marks = mark + marks
        return marks

    assert shown() == "ABC"
    for turn in ("undo", "redo"):
        for mark in order:
            getattr(patches[mark], turn)()
            assert patches[mark].in_place == (turn == "redo")
            assert shown() == "".join(mark for mark in "ABC" if patches[mark].in_place)
    assert vars(Owner)[name] is ours
    for mark in order:
        patches[mark].undo()


def test_a_wrap_below_what_replaced_it_cannot_be_undone():
    """For nobody knows what that was made of; nor below what other code has put between."""
    below, above = Changes(), Changes()
    below.wrap(Owner, "method", loud)
    above.replace(Owner, "method", loud(vars(Owner)["method"]))
    with pytest.raises(CannotRevert, match=r"Owner\.method has since been changed by another patch"):
        below.undo()
    above.undo()
    ours = vars(Owner)["method"]
    Owner.method = theirs = loud(ours)
    above = Changes()
    above.wrap(Owner, "method", loud)
    with pytest.raises(CannotRevert, match=r"Owner\.method has since been changed by other code"):
        below.undo()
    above.undo()
    assert vars(Owner)["method"] is theirs
    Owner.method = ours
    below.undo()


def test_a_change_that_is_refused_leaves_nothing_behind():
    """What the owner or the maker raises is raised, and the rest can be undone."""

    class Refusing(type):
        def __setattr__(cls, name, value):
            raise TypeError("no")

    class Refuses(metaclass=Refusing):
        def method(self):
            return 1

    changes = Changes()
    changes.replace(Owner, "attribute", 2)
    with pytest.raises(TypeError, match="no"):
        changes.wrap(Refuses, "method", loud)
    with pytest.raises(ZeroDivisionError):
        changes.wrap(Owner, "method", lambda _: 1 / 0)
    changes.undo()
    assert Refuses().method() == 1


def test_what_has_moved_is_named_also_on_an_instance():
    """By the class of the instance."""
    some, changes = Owner(), Changes()
    changes.replace(some, "attribute", 2)
    some.attribute = 3
    with pytest.raises(CannotRevert, match=r"Owner\.attribute has since been changed"):
        changes.undo()


def test_redo_makes_the_same_changes_again():
    """The same objects are put in, unless somebody changed the place meanwhile."""
    changes = Changes()
    changes.wrap(Owner, "method", loud)
    ours = vars(Owner)["method"]
    changes.undo()
    changes.redo()
    assert vars(Owner)["method"] is ours
    changes.undo()
    original = vars(Owner)["method"]
    Owner.method = loud(original)
    with pytest.raises(CannotRevert):
        changes.redo()
    Owner.method = original


@given(
    st.lists(
        st.tuples(st.sampled_from(["attribute", "method", "static", "new", "newer"]), st.integers()),
        max_size=12,
    )
)
def test_any_sequence_of_replacements_is_undone_exactly(steps):
    """Also where one attribute is replaced many times."""
    before = dict(vars(Owner))
    changes = Changes()
    for name, value in steps:
        changes.replace(Owner, name, value)
    assert bool(changes) == bool(steps)
    changes.undo()
    assert dict(vars(Owner)) == before


def test_what_is_told_is_a_warning_and_once_in_a_process(caplog, monkeypatch):
    """Whichever repair tells it, and however often; another message is another warning."""
    monkeypatch.setattr(notices, "_said", set())
    for changes in (Changes(), Changes()):
        changes.tell("wandb is broken (ImportError: no)")
        changes.tell("wandb is broken (ImportError: no)")
    Changes().tell("torchcodec is broken")
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("zoo_hooks", "WARNING", "zoo-hooks: wandb is broken (ImportError: no)"),
        ("zoo_hooks", "WARNING", "zoo-hooks: torchcodec is broken"),
    ]
