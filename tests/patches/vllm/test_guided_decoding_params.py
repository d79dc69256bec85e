"""vLLM's old name for its constraint is there for the TRL that knows no other, and means the new class."""

from __future__ import annotations

import contextlib
import pickle

import guiding
import msgspec
import pytest
from conftest import python, recorded
from vllm import sampling_params

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.changes import CannotRevert
from zoo_hooks.patches.vllm.guided_decoding_params import NEW, OLD

PATCH = "vllm/guided-decoding-params"
AFFECTED = recorded(PATCH) == "AFFECTED"
affected = pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")


def test_without_the_repair_no_module_of_trl_that_guides_can_be_imported():
    """ImportError on the old name in each; with it the pattern that TRL gives stands in the constraint."""
    without, with_hooks = guiding.without_hooks(), guiding.with_hooks()
    stopped = guiding.stopped(f"cannot import name '{OLD}'")
    assert stopped == (set(guiding.modules()) if AFFECTED else set())
    assert ("Error" in without["figures"][PATCH]) == AFFECTED
    assert with_hooks["figures"][PATCH] == "a+"
    assert not any(with_hooks["errors"].values())


def test_names_are_added_where_they_are_missing_only():
    """On the other pairs, with a newer vLLM or a newer TRL, vLLM has those that it has without hooks."""
    names = guiding.without_hooks()["names"]
    assert names == ([NEW] if AFFECTED else [name for name in (OLD, NEW) if hasattr(sampling_params, name)])
    assert hasattr(sampling_params, OLD) == (AFFECTED or OLD in names)
    assert zoo_hooks.report()[PATCH].status.name == ("APPLIED" if AFFECTED else "NOT_NEEDED")


@affected
def test_the_old_name_makes_objects_of_the_new_class():
    """Their type, isinstance and pickles are the new class's, by keyword and by position."""
    from vllm.sampling_params import GuidedDecodingParams

    new = getattr(sampling_params, NEW)
    for made in (
        GuidedDecodingParams(regex="a+"),
        GuidedDecodingParams(None, "a+"),
        GuidedDecodingParams(backend="outlines", regex="a+"),
    ):
        assert type(made) is new
        assert isinstance(made, GuidedDecodingParams)
        assert made.regex == "a+"
        assert pickle.loads(pickle.dumps(made)) == made
    assert issubclass(new, GuidedDecodingParams)
    assert not isinstance(3, GuidedDecodingParams)
    with pytest.raises(Exception, match="one kind of structured outputs"):
        GuidedDecodingParams(regex="a+", json="{}")


@affected
def test_an_empty_constraint_is_no_error():
    """Where the new class refuses it, as in vLLM 0.33, it is None; elsewhere an object without any."""
    from vllm.sampling_params import GuidedDecodingParams

    try:
        refused = not getattr(sampling_params, NEW)()
    except (ValueError, getattr(sampling_params, "VLLMValidationError", ValueError)):
        refused = True
    for made in (GuidedDecodingParams(), GuidedDecodingParams(regex=None), GuidedDecodingParams(None)):
        assert made is None if refused else made.all_constraints_none()
        assert sampling_params.SamplingParams(structured_outputs=made).n == 1


@affected
def test_parameters_with_it_are_encoded_as_before():
    """msgspec sends them to the engine and back."""
    from vllm.sampling_params import GuidedDecodingParams

    made = sampling_params.SamplingParams(structured_outputs=GuidedDecodingParams(regex="a+"))
    back = msgspec.msgpack.Decoder(sampling_params.SamplingParams).decode(msgspec.msgpack.encode(made))
    assert back == made
    assert type(back.structured_outputs) is getattr(sampling_params, NEW)
    assert back.structured_outputs.regex == "a+"


@affected
def test_the_old_name_is_a_class_like_the_new_one():
    """It is pickled by its name, subclassed, and what is set on it is set on the new one and taken back."""
    from vllm.sampling_params import GuidedDecodingParams

    new = getattr(sampling_params, NEW)
    assert pickle.loads(pickle.dumps(GuidedDecodingParams)) is GuidedDecodingParams

    class Mine(GuidedDecodingParams):
        pass

    assert type(Mine(regex="a+")) is Mine
    assert issubclass(Mine, new)
    GuidedDecodingParams.mark = "set"
    assert new.mark == "set"
    del GuidedDecodingParams.mark
    assert not hasattr(new, "mark")


@affected
@pytest.mark.parametrize(
    ("raised", "verdict"),
    [
        (None, "AFFECTED"),
        (ValueError("You must use one kind of constraint but none are specified: {}"), "AFFECTED"),
        (TypeError("missing 1 required positional argument: 'backend'"), None),
    ],
)
def test_only_a_refusal_of_none_is_taken_for_one(raised, verdict, monkeypatch):
    """Another error of the probe's own call goes on, and the engine takes it for UNKNOWN."""

    def make():
        if raised:
            raise raised

    with zoo_hooks.disabled(PATCH), monkeypatch.context() as changed:
        changed.setattr(sampling_params, NEW, make)
        with contextlib.nullcontext() if verdict else pytest.raises(type(raised)):
            assert catalogue.get(PATCH).probe(sampling_params).name == verdict


@affected
def test_undone_it_is_gone():
    """The module is as vLLM made it."""
    with zoo_hooks.disabled(PATCH):
        assert not hasattr(sampling_params, OLD)
    assert hasattr(sampling_params, OLD)


@affected
def test_without_an_old_trl_nothing_is_added(tmp_path):
    """Another TRL stands first on the path; who looks for the old name finds what vLLM has."""
    (tmp_path / "trl" / "scripts").mkdir(parents=True)
    (tmp_path / "trl" / "__init__.py").touch()
    (tmp_path / "trl" / "scripts" / "vllm_serve.py").touch()
    python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import vllm.sampling_params, zoo_hooks
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert not hasattr(vllm.sampling_params, {OLD!r})
    """)


@affected
def test_a_tool_that_gives_the_name_back_first_is_not_fought():
    """It is seen and stays."""
    python(f"""
        import sys, zoo_hooks
        sys.meta_path.remove(zoo_hooks)
        from vllm import sampling_params
        sampling_params.{OLD} = sampling_params.{NEW}
        zoo_hooks.activate()
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == "NOT_NEEDED", seen
        assert sampling_params.{OLD} is sampling_params.{NEW}
    """)


@affected
def test_a_tool_that_gives_the_name_back_second_is_not_fought(monkeypatch):
    """One that looks finds ours; what one that does not look puts there stays."""
    ours = getattr(sampling_params, OLD)
    assert ours(regex="a+").regex == "a+"
    theirs = type(OLD, (getattr(sampling_params, NEW),), {})
    monkeypatch.setattr(sampling_params, OLD, theirs)
    with pytest.raises(CannotRevert):
        zoo_hooks.revert(PATCH)
    assert getattr(sampling_params, OLD) is theirs
    assert zoo_hooks.report()[PATCH].status.name == "APPLIED"
