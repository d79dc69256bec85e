"""What TRL's own code hands vLLM at a generation step becomes the right sampling parameters."""

from __future__ import annotations

import ast
import functools
import inspect
import multiprocessing
import pickle
import threading
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
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
SERVE = "trl.scripts.vllm_serve"
PLACE = Path(find_spec("trl").submodule_search_locations[0])
GUIDING = [  # as TRL's source has them, so that none is missed that the patch does not know
    ".".join(file.relative_to(PLACE.parent).with_suffix("").parts)
    for file in sorted(PLACE.rglob("*.py"))
    if "GuidedDecodingParams" in file.read_text("utf-8")
]
assert {SERVE, "trl.trainer.grpo_trainer"} <= set(GUIDING)

TRAINER = inspect.getsource(import_module("trl.trainer.grpo_trainer"))
if exists("trl.trainer.rloo_trainer"):
    TRAINER += inspect.getsource(import_module("trl.trainer.rloo_trainer"))
SERVING = (PLACE / "scripts" / "vllm_serve.py").read_text("utf-8")
LIMIT = "truncate_prompt_tokens"
METHODS = {"generate": "prompts", "chat": "messages"}


def step(name, regex, **more):
    """The statements of that module that make its sampling parameters, run as they stand there."""
    module = import_module(name)
    arguments = SimpleNamespace(
        generation_kwargs=more or None, generation_config={}, max_completion_length=8, max_new_tokens=8,
        vllm_guided_decoding_regex=regex,
    )  # fmt: skip
    given = {"repetition_penalty": 1.0, "temperature": 0.9, "top_p": 1.0, "top_k": 1, "min_p": 0.0}
    trainer = SimpleNamespace(
        guided_decoding_regex=regex, structured_outputs_regex=regex, vllm_guided_decoding_regex=regex,
        max_completion_length=8, max_prompt_length=16, args=arguments, **given,
    )  # fmt: skip
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        for body in (getattr(node, part, None) for part in ("body", "orelse")):
            for end, statement in enumerate(body if isinstance(body, list) else ()):
                made = isinstance(statement, ast.Assign) and ast.unparse(statement.value)
                if made and made.startswith("SamplingParams("):
                    here = [*map(ast.unparse, body[:end])]
                    begin = next(n for n, text in enumerate(here) if "_regex" in text)
                    space = vars(module) | {"self": trainer, "trainer": trainer}
                    space |= given | {"logprobs": True, "overrides": None, "args": arguments}
                    space |= {"max_completion_length": 8}
                    exec("\n".join([*here[begin:], f"made = {made}"]), space)
                    return space["made"]
    raise LookupError(name)


def constraint(made):
    return made.structured_outputs if hasattr(made, "structured_outputs") else made.guided_decoding


@pytest.mark.parametrize("name", GUIDING)
def test_every_module_of_trl_that_guides_imports(name):
    """What they bind makes a constraint with the pattern, and the patch knows them all."""
    module = import_module(name)
    made = getattr(module, "GuidedDecodingParams", None) or module.StructuredOutputsParams
    assert made(regex="a+").regex == "a+"
    assert name in catalogue.get(PATCH).targets


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


@pytest.mark.parametrize("name", [name for name in GUIDING if name != SERVE])
@pytest.mark.parametrize("regex", [None, "[ab]+"])
def test_a_generation_step_makes_the_right_parameters(name, regex):
    """Type, values, isinstance, pickle and msgspec are those of vLLM's own class."""
    made = step(name, regex)
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
    """vLLM's class without an engine; what its two methods are called with, by the names that they have."""
    seen = []

    def stub(method):
        real = getattr(vllm.LLM, method)

        @functools.wraps(real)
        def call(*args, **kwargs):
            given = inspect.signature(real).bind(*args, **kwargs).arguments
            seen.append(given)
            one = SimpleNamespace(token_ids=[2], logprobs=[{2: SimpleNamespace(logprob=-0.5)}])
            answer = SimpleNamespace(prompt_token_ids=[1], outputs=[one], prompt_logprobs=None)
            return [answer] * len(given.get("prompts") or given["messages"])

        monkeypatch.setattr(vllm.LLM, method, call)

    for method in METHODS:
        stub(method)
    monkeypatch.setattr(vllm.LLM, "__init__", lambda *_, **__: None)
    return seen


def answered(monkeypatch, path, request):
    """What ``trl vllm-serve`` answers: its own main, a thread for its worker and a client for its server."""
    from starlette.testclient import TestClient

    serve = import_module(SERVE)
    ends, answers = [], []

    class Worker(threading.Thread):
        def __init__(self, target, args):
            super().__init__(target=target, args=args, daemon=True)
            self.end = args[-1]

        def run(self):
            with self.end:  # whoever waits for an answer sees that the worker is gone
                super().run()

    def pipe():
        ends.extend(multiprocessing.Pipe())
        return ends

    def run(app, **_):
        with TestClient(app) as client:
            answers.append(client.post(path, json=request))
            ends[0].send({"type": "shutdown"})

    for name in ("", "_LOCAL"):
        monkeypatch.setenv(f"VLLM_DP_RANK{name}", "0")  # the worker sets them; so they are put back
    monkeypatch.setenv("VLLM_DP_SIZE", "1")
    monkeypatch.setenv("VLLM_DP_MASTER_PORT", "0")
    monkeypatch.setattr(serve, "Process", Worker)
    monkeypatch.setattr(serve, "Pipe", pipe)
    monkeypatch.setattr(serve.uvicorn, "run", run)
    serve.main(serve.ScriptArguments(model="any"))
    assert answers[0].status_code == 200, answers[0].text
    return answers[0].json()


@pytest.mark.parametrize("method", [method for method in METHODS if f'"/{method}/"' in SERVING])
@pytest.mark.parametrize("regex", [None, "[ab]+"])
def test_trl_vllm_serve_answers_a_request(method, regex, calls, monkeypatch):
    """From the request through a pipe to the worker, whose LLM gets the right parameters and the length."""
    talk = [[{"role": "user", "content": "a b"}]]
    request = {"prompts": ["a b"]} if method == "generate" else {"messages": talk}
    request |= {"max_tokens": 8, "temperature": 0.9, "generation_kwargs": {}, LIMIT: 16}
    request |= {"guided_decoding_regex": regex, "structured_outputs_regex": regex}
    assert answered(monkeypatch, f"/{method}/", request)["completion_ids"] == [[2]]
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
    llm, made = trainer.LLM(model="any"), step("trl.trainer.rloo_trainer", None)
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
    assert import_module("trl.trainer.grpo_trainer").SamplingParams.from_optional(n=2).n == 2
