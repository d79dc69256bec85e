"""What TRL's own code hands vLLM at a generation step becomes the right sampling parameters."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import textwrap
import types
from importlib import import_module

import guiding
import pytest
from conftest import python, recorded
from guiding import LIMIT, METHODS, OLD, PATCHES, REGEXES, SERVE, step

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.changes import CannotRevert

vllm = pytest.importorskip("vllm", reason="vllm is not part of this environment")
import msgspec  # noqa: E402 - comes with vllm

PATCH = "trl/guided-decoding-argument"
AFFECTED = recorded(PATCH) == "AFFECTED"
STATUS = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED"}
TRAINER = "trl.trainer.grpo_trainer"
GUIDING = guiding.modules()
MAKERS = [name for name in GUIDING if name != SERVE]
assert SERVE in GUIDING
assert MAKERS

SOURCE = "".join(guiding.source(name) for name in MAKERS if ".trainer." in name)
SERVING = guiding.source(SERVE)
# TRL 0.27 and later still hand vLLM 0.17 and later the length there, by themselves
LENGTH_REFUSED = not AFFECTED and LIMIT in SERVING and not hasattr(vllm.SamplingParams, LIMIT)


def constraint(made):
    return made.structured_outputs if hasattr(made, "structured_outputs") else made.guided_decoding


@pytest.mark.parametrize("name", GUIDING)
def test_every_module_of_trl_that_guides_imports(name):
    """What they bind makes a constraint with the pattern, and the patch knows them where they need it."""
    module = import_module(name)
    made = getattr(module, OLD, None) or module.StructuredOutputsParams
    assert made(regex="a+").regex == "a+"
    assert name in catalogue.get(PATCH).targets or not AFFECTED


@pytest.mark.parametrize("patch", PATCHES)
def test_this_process_has_the_recorded_verdict(patch):
    """Of each patch between the two, whatever the pair of releases."""
    import_module(TRAINER)
    import_module(SERVE)
    assert zoo_hooks.report()[patch].status.name == STATUS[recorded(patch)]


def test_without_the_repair_each_call_with_the_argument_is_refused():
    """TypeError wherever TRL makes parameters, though the old name was put back by hand; none with hooks.

    Where nothing guides, Online DPO and openenv do not name the argument.
    """
    without, with_hooks = guiding.without_hooks(), guiding.with_hooks()
    assert ("Error" in str(without["figures"][PATCH])) == AFFECTED
    assert with_hooks["figures"][PATCH] == "a+"
    calls = without["made"] | without["served"]
    assert len(calls) >= 2 * len(GUIDING)
    if not AFFECTED:
        assert calls == with_hooks["made"] | with_hooks["served"]
        return
    refused = {call for call, made in calls.items() if "TypeError: Unexpected keyword argument" in str(made)}
    silent = {f"{name} None" for name in MAKERS if "online_dpo" in name or "openenv" in name}
    assert refused == calls.keys() - silent
    assert "Error" not in str(with_hooks["made"] | with_hooks["served"])


def test_switched_off_the_modules_have_vllms_own_class():
    """And its TypeError again; on the other pairs there was nothing else."""
    grpo = import_module(MAKERS[-1])
    with zoo_hooks.disabled(PATCH):
        if AFFECTED:
            with pytest.raises(TypeError, match=f"guided_decoding|{LIMIT}"):
                step(grpo, "a+")
        assert grpo.SamplingParams is vllm.SamplingParams
    assert (grpo.SamplingParams is vllm.SamplingParams) != AFFECTED


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("regex", REGEXES)
def test_a_generation_step_makes_the_right_parameters(name, regex):
    """Type, values, isinstance, pickle and msgspec are those of vLLM's own class."""
    made = step(import_module(name), regex)
    assert type(made) is vllm.SamplingParams
    assert isinstance(made, import_module(name).SamplingParams)
    assert (constraint(made) and constraint(made).regex) == regex
    assert (made.n, made.max_tokens, made.temperature) == (2 if "online_dpo" in name else 1, 8, 0.9)
    assert_it_can_be_sent(made)


def assert_it_can_be_sent(made):
    """As vLLM sends it, and between processes."""
    assert pickle.loads(pickle.dumps(made)) == made
    back = msgspec.msgpack.Decoder(vllm.SamplingParams).decode(msgspec.msgpack.encode(made))
    if hasattr(made, "guided_decoding") and hasattr(made, "structured_outputs"):
        # vLLM 0.11 makes the old class, and reads back the new one from which that inherits.
        made, back = msgspec.to_builtins(made), msgspec.to_builtins(back)
    assert back == made


@pytest.fixture
def calls(monkeypatch):
    """What the methods of a vLLM without an engine are called with."""
    return guiding.recorded_calls(monkeypatch)


@pytest.mark.skipif(
    LENGTH_REFUSED, reason="this release of trl vllm-serve raises for the length, which is its own"
)
@pytest.mark.parametrize("method", guiding.served_methods())
@pytest.mark.parametrize("regex", REGEXES)
def test_trl_vllm_serve_answers_a_request(method, regex, calls, monkeypatch):
    """From the request through a pipe to the worker, whose LLM gets the right parameters and the length."""
    asked = guiding.request(method, regex, 16)
    assert guiding.answered(monkeypatch, import_module(SERVE), method, asked)["completion_ids"] == [[2]]
    (given,) = calls
    made = given["sampling_params"]
    assert type(made) is vllm.SamplingParams
    assert (constraint(made) and constraint(made).regex) == regex
    assert (made.n, made.max_tokens, made.temperature) == (1, 8, 0.9)
    assert_it_can_be_sent(made)
    if LIMIT in SERVING and AFFECTED:
        elsewhere = (given.get("tokenization_kwargs") or {}).get(LIMIT)
        assert (made.truncate_prompt_tokens if hasattr(made, LIMIT) else elsewhere) == 16


@pytest.mark.skipif(
    not AFFECTED or "generation_kwargs" not in SOURCE, reason="no such drift, or nothing from the user"
)
def test_a_structured_output_of_the_user_is_kept():
    """It comes by generation_kwargs, beside TRL's None."""
    own = import_module("vllm.sampling_params").StructuredOutputsParams(choice=["a", "b"])
    assert step(import_module(TRAINER), None, structured_outputs=own).structured_outputs == own


@pytest.mark.skipif(
    not AFFECTED or hasattr(vllm.SamplingParams, LIMIT) or LIMIT not in SOURCE,
    reason="vLLM takes the length there, or TRL gives none",
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("named", [0, 1, 2])
def test_the_length_of_prompts_reaches_the_methods_that_take_it(method, named, calls):
    """On its way it stands in the parameters; none, one or both arguments are given by name."""

    def call(sampling):
        given = {METHODS[method]: ["a b"], "sampling_params": sampling}
        by_place = [given.pop(name) for name in list(given)[: 2 - named]]
        getattr(llm, method)(*by_place, **given, use_tqdm=False)

    assert "tokenization_kwargs" in inspect.signature(getattr(vllm.LLM, method)).parameters
    trainer = import_module("trl.trainer.rloo_trainer")
    llm, made = trainer.LLM(model="any"), step(trainer, None)
    assert type(llm) is vllm.LLM
    assert made.extra_args == {LIMIT: 16}
    call(made)
    call(vllm.SamplingParams())
    assert [one.get("tokenization_kwargs") for one in calls] == [{LIMIT: 16}, None]
    assert [one[METHODS[method]] for one in calls] == [["a b"]] * 2
    renderer = import_module("vllm.renderers.params").TokenizeParams(max_total_tokens=64)
    assert renderer.with_kwargs(**calls[0]["tokenization_kwargs"]).get_encode_kwargs()["max_length"] == 16


def test_vllms_own_class_is_untouched():
    """It refuses the old name where it did, and has its own type."""
    assert vllm.SamplingParams is import_module("vllm.sampling_params").SamplingParams
    if AFFECTED:
        with pytest.raises(TypeError):
            vllm.SamplingParams(guided_decoding=None)
    assert import_module(MAKERS[-1]).SamplingParams.from_optional(n=2).n == 2


def test_the_class_that_trl_binds_is_used_like_vllms():
    """It is pickled by its name, copied, subclassed, and what is set on it is set on vLLM's and can go."""
    bound = import_module(MAKERS[-1]).SamplingParams
    assert pickle.loads(pickle.dumps(bound)) is bound
    assert copy.deepcopy(bound) is bound
    assert not hasattr(bound, "mark")

    class Mine(bound):
        def doubled(self):
            return 2 * self.n

    made = Mine(n=2)
    assert (type(made), made.doubled()) == (Mine, 4)
    assert issubclass(Mine, vllm.SamplingParams)
    bound.mark = "set"
    assert (bound.mark, vllm.SamplingParams.mark) == ("set", "set")
    del bound.mark
    assert not hasattr(vllm.SamplingParams, "mark")


@pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")
@pytest.mark.parametrize(
    ("raised", "verdict"),
    [
        (TypeError("Unexpected keyword argument 'guided_decoding'"), "AFFECTED"),
        (TypeError("Missing required argument 'model'"), None),
        (ValueError("guided_decoding"), None),
        (None, "FIXED"),
    ],
)
def test_only_what_names_the_argument_is_the_symptom(raised, verdict):
    """Another error of the probe's own call goes on, and the engine takes it for UNKNOWN."""

    def make(**_):
        if raised:
            raise raised

    make.structured_outputs = None
    module = types.SimpleNamespace(GuidedDecodingParams=None, SamplingParams=make)
    with contextlib.nullcontext() if verdict else pytest.raises(type(raised)):
        assert catalogue.get(PATCH).probe(module).name == verdict


TOOL = """
    def tool(owner):
        real = owner.SamplingParams
        class Taking(type):
            def __call__(cls, *args, guided_decoding=None, **kwargs):
                if guided_decoding is not None:
                    kwargs["structured_outputs"] = guided_decoding
                return real(*args, **kwargs)
        owner.SamplingParams = Taking("SamplingParams", (), {})
        return owner.SamplingParams
"""


@pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")
def test_a_tool_that_takes_the_argument_first_is_not_fought():
    """It gives vLLM the old name and a SamplingParams that renames the argument; TRL binds its own."""
    python(f"""
    import sys
    sys.path.insert(0, {str(guiding.HERE)!r})
    import zoo_hooks
    sys.meta_path.remove(zoo_hooks)
    {TOOL}
    import vllm
    from vllm import sampling_params
    sampling_params.GuidedDecodingParams = sampling_params.StructuredOutputsParams
    theirs = tool(vllm)
    zoo_hooks.activate()
    from trl.trainer import grpo_trainer
    from guiding import step
    for patch in ({PATCH!r}, "vllm/guided-decoding-params"):
        seen = zoo_hooks.report()[patch].status.name
        assert seen == "NOT_NEEDED", (patch, seen)
    assert grpo_trainer.SamplingParams is vllm.SamplingParams is theirs
    assert grpo_trainer.GuidedDecodingParams is sampling_params.StructuredOutputsParams
    own = sampling_params.SamplingParams
    if not {LIMIT in SOURCE} or hasattr(own, {LIMIT!r}):
        made = step(grpo_trainer, "a+")
        assert type(made) is own
        assert made.structured_outputs.regex == "a+"
        assert step(grpo_trainer, None).structured_outputs is None
    """)


@pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")
def test_a_tool_that_takes_the_argument_second_is_not_fought(monkeypatch):
    """It wraps what it finds in TRL's module; both work, and ours cannot be taken from under it."""
    grpo, space = import_module(TRAINER), {}
    ours = grpo.SamplingParams
    monkeypatch.setattr(grpo, "SamplingParams", ours)  # so that it comes back
    exec(textwrap.dedent(TOOL), space)
    theirs = space["tool"](grpo)
    for regex in REGEXES:
        made = step(grpo, regex)
        assert type(made) is vllm.SamplingParams
        assert (constraint(made) and constraint(made).regex) == regex
    with pytest.raises(CannotRevert):
        zoo_hooks.revert(PATCH)
    assert grpo.SamplingParams is theirs
    assert zoo_hooks.report()[PATCH].status.name == "APPLIED"
