"""What TRL's own code hands vLLM at a generation step becomes the right sampling parameters."""

from __future__ import annotations

import ast
import inspect
import pickle
from importlib import import_module
from types import SimpleNamespace

import pytest
from conftest import exists, recorded

import zoo_hooks
from zoo_hooks import catalogue, survey

vllm = pytest.importorskip("vllm", reason="vllm is not part of this environment")
import msgspec  # noqa: E402 - comes with vllm

PATCH = "trl-guided-decoding-argument"
AFFECTED = recorded(PATCH) == "AFFECTED"
STATUS = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED"}
MODULES = [
    name
    for name in ("trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer", "trl.experimental.openenv.utils")
    if exists(name) and "SamplingParams(" in inspect.getsource(import_module(name))
]

TRAINER = inspect.getsource(import_module("trl.trainer.grpo_trainer"))
if exists("trl.trainer.rloo_trainer"):
    TRAINER += inspect.getsource(import_module("trl.trainer.rloo_trainer"))
LIMIT = "truncate_prompt_tokens"


def step(name, regex, **more):
    """The statements of that module that make its sampling parameters, run as they stand there."""
    module = import_module(name)
    trainer = SimpleNamespace(
        guided_decoding_regex=regex, structured_outputs_regex=regex, repetition_penalty=1.0, temperature=0.9,
        top_p=1.0, top_k=0, min_p=None, max_completion_length=8, max_prompt_length=16,
        args=SimpleNamespace(generation_kwargs=more or None, generation_config={}, max_completion_length=8),
    )  # fmt: skip
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        for body in (getattr(node, part, None) for part in ("body", "orelse")):
            for end, statement in enumerate(body if isinstance(body, list) else ()):
                made = isinstance(statement, ast.Assign) and ast.unparse(statement.value)
                if made and made.startswith("SamplingParams("):
                    here = [*map(ast.unparse, body[:end])]
                    begin = next(n for n, text in enumerate(here) if "_regex" in text)
                    space = vars(module) | {"self": trainer, "trainer": trainer}
                    space |= {"logprobs": True, "overrides": None}
                    exec("\n".join([*here[begin:], f"made = {made}"]), space)
                    return space["made"]
    raise LookupError(name)


def constraint(made):
    return made.structured_outputs if hasattr(made, "structured_outputs") else made.guided_decoding


@pytest.mark.parametrize("name", filter(exists, catalogue.get(PATCH).targets))
def test_every_module_of_trl_that_guides_imports(name):
    """What they bind makes a constraint with the pattern."""
    module = import_module(name)
    made = getattr(module, "GuidedDecodingParams", None) or getattr(module, "StructuredOutputsParams", None)
    assert made is None or made(regex="a+").regex == "a+"


@pytest.mark.parametrize(
    "patch",
    [PATCH, "vllm-guided-decoding-params", "trl-vllm-open-port-import", "trl-vllm-tokenizer-import"],
)
def test_this_process_has_the_recorded_verdict(patch):
    """Of each patch between the two, whatever the pair of releases."""
    import_module("trl.trainer.grpo_trainer")
    import_module("trl.scripts.vllm_serve")
    assert zoo_hooks.report()[patch].status.name == STATUS[recorded(patch)]


def test_without_the_repair_the_argument_is_refused():
    """With the old name imported, vLLM's own class still refuses the argument."""
    (row,) = survey.verify([catalogue.get(PATCH)])
    assert row["with"] == "a+"
    assert (row["result"] == "repaired") == AFFECTED
    grpo = import_module("trl.trainer.grpo_trainer")
    with zoo_hooks.disabled(PATCH):
        if AFFECTED:
            with pytest.raises(TypeError, match="guided_decoding"):
                step("trl.trainer.grpo_trainer", None)
        assert grpo.SamplingParams is vllm.SamplingParams
    assert (grpo.SamplingParams is vllm.SamplingParams) != AFFECTED


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("regex", [None, "[ab]+"])
def test_a_generation_step_makes_the_right_parameters(name, regex):
    """Type, values, isinstance, pickle and msgspec are those of vLLM's own class."""
    made = step(name, regex)
    assert type(made) is vllm.SamplingParams
    assert isinstance(made, import_module(name).SamplingParams)
    assert (constraint(made) and constraint(made).regex) == regex
    assert (made.n, made.max_tokens, made.temperature) == (1, 8, 0.9)
    assert pickle.loads(pickle.dumps(made)) == made
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(made))
    assert regex is None or "[ab]+" in str(sent)


@pytest.mark.skipif(
    not AFFECTED or "generation_kwargs" not in TRAINER, reason="no such drift, or nothing from the user"
)
def test_a_structured_output_of_the_user_is_kept():
    """It comes by generation_kwargs, beside TRL's None."""
    own = import_module("vllm.sampling_params").StructuredOutputsParams(choice=["a", "b"])
    assert step("trl.trainer.grpo_trainer", None, structured_outputs=own).structured_outputs == own


@pytest.mark.skipif(
    not AFFECTED or hasattr(vllm.SamplingParams, LIMIT) or LIMIT not in TRAINER,
    reason="vLLM takes the length there, or TRL gives none",
)
@pytest.mark.parametrize("method", ["generate", "chat"])
def test_the_length_of_prompts_reaches_the_methods_that_take_it(method, monkeypatch):
    """On its way it stands in the parameters; vLLM's own class, without an engine, is called with it."""
    seen = []

    def call(self, prompts, sampling_params=None, *, use_tqdm=True, tokenization_kwargs=None):
        seen.append((self, prompts, sampling_params, use_tqdm, tokenization_kwargs))

    assert "tokenization_kwargs" in inspect.signature(getattr(vllm.LLM, method)).parameters
    monkeypatch.setattr(vllm.LLM, method, call)
    monkeypatch.setattr(vllm.LLM, "__init__", lambda *_, **__: None)
    trainer = import_module("trl.trainer.rloo_trainer")
    llm, made = trainer.LLM(model="any"), step("trl.trainer.rloo_trainer", None)
    assert type(llm) is vllm.LLM
    assert made.extra_args == {LIMIT: 16}
    getattr(llm, method)(["a b"], sampling_params=made, use_tqdm=False)
    getattr(llm, method)(["a b"], vllm.SamplingParams())
    assert [(one[0], one[4]) for one in seen] == [(llm, {LIMIT: 16}), (llm, None)]
    renderer = import_module("vllm.renderers.params").TokenizeParams(max_total_tokens=64)
    assert renderer.with_kwargs(**seen[0][4]).get_encode_kwargs()["max_length"] == 16


def test_vllms_own_class_is_untouched():
    """It refuses the old name where it did, and has its own type."""
    assert vllm.SamplingParams is import_module("vllm.sampling_params").SamplingParams
    if AFFECTED:
        with pytest.raises(TypeError):
            vllm.SamplingParams(guided_decoding=None)
    assert import_module("trl.trainer.grpo_trainer").SamplingParams.from_optional(n=2).n == 2
