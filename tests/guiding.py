"""What TRL's own code hands vLLM, asked in the process of the tests and in one without the hooks.

Each start of vLLM takes seconds, so one process without hooks answers for all tests of patches between the
two; and, run as a program with a file for the answers and the folders of some releases of TRL, for all of
these: it imports vLLM and then forks for each release.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.patches.trl import _tiny, availability_flags

HERE = Path(__file__).parent
OLD, NEW = "GuidedDecodingParams", "StructuredOutputsParams"
LIMIT = "truncate_prompt_tokens"
SERVE = "trl.scripts.vllm_serve"
TOKENIZER = "vllm.transformers_utils.tokenizer"
REGEXES = [None, "[ab]+"]
METHODS = {"generate": "prompts", "chat": "messages"}
PATCHES = [
    "trl/vllm-tokenizer-import",
    "vllm/guided-decoding-params",
    "trl/guided-decoding-argument",
    "trl/vllm-open-port-import",
]


def place():
    """The folder in which TRL stands."""
    return Path(find_spec("trl").submodule_search_locations[0])


@functools.cache
def modules():
    """Those that guide, as TRL's source has them, so that none is missed that the patch does not know."""
    return [
        ".".join(file.relative_to(place().parent).with_suffix("").parts)
        for file in sorted(place().rglob("*.py"))
        if OLD in file.read_text("utf-8")
    ]


def source(name):
    """The text of a module of TRL, without importing it."""
    return place().parent.joinpath(*name.split(".")).with_suffix(".py").read_text("utf-8")


@functools.cache
def with_hooks():
    """What everything() is in this process."""
    return everything()


@functools.cache
def without_hooks():
    """What everything() is in a process without the hooks."""
    folder = str(place().parent)
    with tempfile.TemporaryDirectory() as own:
        file = os.environ.get("ZOO_HOOKS_TEST_WITHOUT") or str(Path(own, "answers"))
        if not Path(file).exists():
            subprocess.run([sys.executable, __file__, file, folder], check=True, timeout=300)
        return json.loads(Path(file).read_text())[folder]


def main(file, *folders):
    """Ask each release of TRL in a process of its own that has vLLM and no hooks."""
    os.environ["ZOO_HOOKS"] = "0"
    import_module("vllm.entrypoints.llm")
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        answers = pool.map_async(answer, folders, 1).get(300)
    Path(file).write_text(json.dumps(dict(zip(folders, answers, strict=True))))


def answer(folder):
    """What everything() is with the TRL of that folder."""
    sys.path.insert(0, folder)
    assert place().parent == Path(folder)
    return everything()


def everything():
    """Figures of the canaries; what stops each import; and what is made and sent where nothing does."""
    made = {"figures": {patch: figure(patch) for patch in PATCHES}}
    if zoo_hooks.switched_off():
        forget()  # what a canary could import with another patch's repair
    import vllm
    from vllm import sampling_params

    made["names"] = [name for name in (OLD, NEW) if hasattr(sampling_params, name)]
    made["errors"], made["made"], made["served"] = {}, {}, {}
    for name in modules():
        module, made["errors"][name] = imported(name)
        if name != SERVE:
            for regex in REGEXES:
                made["made"][f"{name} {regex}"] = tried(lambda: plain(step(module, regex)))  # noqa: B023
            continue
        for method in served_methods():
            for regex in REGEXES:
                with pytest.MonkeyPatch.context() as patching:
                    calls = recorded_calls(patching)
                    limit = 16 if hasattr(vllm.SamplingParams, LIMIT) else None
                    asked = request(method, regex, limit)
                    answer = tried(lambda: answered(patching, module, method, asked))  # noqa: B023
                    made["served"][f"{method} {regex}"] = [answer, *(plain(one) for one in calls)]
    return json.loads(json.dumps(made))


def figure(patch):
    """The canary's figure, or what it raises."""
    return tried(lambda: catalogue.get(patch).canary().value)


def stopped(error):
    """The modules of TRL whose import without hooks has such an error on its way."""
    return {name for name, errors in without_hooks()["errors"].items() if any(error in one for one in errors)}


def tried(call):
    """What a call gives, or the words of its error."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it is the answer
        return f"{type(error).__name__}: {error}"


def plain(value):
    """Comparable in two processes: types by their names, the rest in builtins."""
    import msgspec

    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items() if name != "self"}
    return [type(value).__qualname__, msgspec.to_builtins(value)] if hasattr(value, "top_k") else repr(value)


def imported(name):
    """The module, and the errors that came before; each is met with what lets the import go on."""
    errors = []
    with ExitStack() as undo:
        while True:
            try:
                module = import_module(name)
                break
            except (ImportError, RuntimeError) as error:
                if str(error) in errors:
                    raise
                errors.append(str(error))
                help_on(str(error), undo)
    if errors:
        forget()  # what came with it, and had no error for that reason
    return module, errors


def forget():
    """The next import of each module that guides is its first."""
    for name in modules():
        sys.modules.pop(name, None)


def help_on(error, undo):
    """Take one obstacle away by hand; that of a name is put back, for the next module meets it too."""
    from vllm import sampling_params

    if TOKENIZER in error:
        module = sys.modules[TOKENIZER] = ModuleType(TOKENIZER)
        import_module("vllm.transformers_utils").tokenizer = module
    elif f"cannot import name '{OLD}'" in error:
        setattr(sampling_params, OLD, getattr(sampling_params, NEW))
        undo.callback(delattr, sampling_params, OLD)
    elif "cannot import name 'get_open_port'" in error:
        utils = import_module("vllm.utils")
        utils.get_open_port = import_module("vllm.utils.network_utils").get_open_port
        undo.callback(delattr, utils, "get_open_port")
    else:  # trl takes a package for installed
        assert "No module named" in error, error
        undo.enter_context(_tiny.mended(availability_flags.PATCH))


def step(module, regex, **more):
    """The statements of a module that make its sampling parameters, run as they stand there."""
    arguments = SimpleNamespace(
        generation_kwargs=more or None, generation_config={}, max_completion_length=8, max_new_tokens=8,
        vllm_guided_decoding_regex=regex,
    )  # fmt: skip
    given = {"repetition_penalty": 1.0, "temperature": 0.9, "top_p": 1.0, "top_k": 1, "min_p": 0.0}
    trainer = SimpleNamespace(
        guided_decoding_regex=regex, structured_outputs_regex=regex, vllm_guided_decoding_regex=regex,
        max_completion_length=8, max_prompt_length=16, args=arguments, generation_kwargs=more, **given,
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
    raise LookupError(module.__name__)


def recorded_calls(patching):
    """vLLM's class without an engine; what its two methods are called with, by the names that they have."""
    import vllm

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

        patching.setattr(vllm.LLM, method, call)

    for method in METHODS:
        stub(method)
    patching.setattr(vllm.LLM, "__init__", lambda *_, **__: None)
    return seen


def served_methods():
    """Those that this release's ``trl vllm-serve`` has a page for."""
    return [method for method in METHODS if f'"/{method}/"' in source(SERVE)]


def request(method, regex, limit):
    """What a trainer sends it; each release takes what it knows of this."""
    talk = [[{"role": "user", "content": "a b"}]]
    asked = {"prompts": ["a b"]} if method == "generate" else {"messages": talk}
    asked |= {"max_tokens": 8, "temperature": 0.9, "generation_kwargs": {}, LIMIT: limit}
    return asked | {"guided_decoding_regex": regex, "structured_outputs_regex": regex}


def answered(patching, serve, method, asked):
    """What ``trl vllm-serve`` answers: its own main, a thread for its worker and a client for its server."""
    from starlette.testclient import TestClient

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

    @contextmanager
    def stopped():
        try:
            yield
        finally:
            ends[0].send({"type": "shutdown"})

    def run(app, **_):
        with TestClient(app) as client, stopped():
            answers.append(client.post(f"/{method}/", json=asked))

    for name in ("", "_LOCAL"):
        patching.setenv(f"VLLM_DP_RANK{name}", "0")  # the worker sets them; so they are put back
    patching.setenv("VLLM_DP_SIZE", "1")
    patching.setenv("VLLM_DP_MASTER_PORT", "0")
    if hasattr(serve, "AutoTokenizer"):  # from 0.28 it loads one, for pages that are not asked here
        patching.setattr(serve, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *_, **__: None))
    patching.setattr(serve, "Process", Worker)
    patching.setattr(serve, "Pipe", pipe)
    patching.setattr(serve.uvicorn, "run", run)
    serve.main(serve.ScriptArguments(model="any"))
    assert answers[0].status_code == 200, answers[0].text
    return answers[0].json()


if __name__ == "__main__":
    main(*sys.argv[1:])
