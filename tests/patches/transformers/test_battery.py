"""The battery: with the hooks every model of every patch does what it does on a right upstream.

Each activity has an oracle that a right upstream agrees with: the same tokens by other ways to
generate them, the same gradients by other ways to train, the same logits by other ways to run.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import json
import os
import pickle
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
from battery import ASSISTED, CANNOT, EOS, MODELS, PATCHES, SEEING, SHARING, SPECIAL, adapters
from conftest import child, exists, recorded
from packaging.requirements import Requirement
from shared_kv import cosine, gradients
from torch._dynamo.testing import CompileCounter
from transformers import Trainer

import zoo_hooks
from zoo_hooks import catalogue, releases
from zoo_hooks.model import Status
from zoo_hooks.patches.transformers import _tiny
from zoo_hooks.patches.transformers._zero_shared import held

NAMES = [name for name in MODELS if any(name in names for names in PATCHES.values())]
HERE = [
    patch
    for patch in PATCHES
    if all(
        map(find_spec, (name.replace("-", "_") for name in releases.claimed_upstreams(catalogue.get(patch))))
    )
]
"""Patches of which all upstreams are installed."""
every_model = pytest.mark.parametrize("name", NAMES)
KEPT = [*_tiny.TOKENS.values(), EOS]
"""Tokens that are not generated: that of an image needs an image, and the last would end the text."""
SCALE = 2.0**10
"""Of losses, as one trains in float16, lest gradients vanish."""
DIVIDES_TWICE = Requirement("transformers>=5.3.0,<5.5.4").specifier.contains(transformers.__version__)
"""Upstream divides by the number of accumulated batches twice."""
TEXT_ONLY = r"(?!.*tower).*\.[qv]_proj"
"""Reentrant checkpointing gives no gradients to adapters in a tower, for its inputs need none."""


@pytest.fixture(autouse=True)
def _swift_garbage_collection():
    """Each Trainer collects garbage; it need only look at what its test has made."""
    gc.collect()
    gc.freeze()


@functools.cache
def model(name):
    """A model that tests only look at."""
    return MODELS[name].build()


def logits(some, name, **more):
    with torch.no_grad(), MODELS[name].running():
        return some(**MODELS[name].inputs(), **more).logits


def generate(some, name, **how):
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": EOS, "suppress_tokens": KEPT, **how}
    torch.manual_seed(0)
    with MODELS[name].running():
        return some.generate(**MODELS[name].inputs(), **settings)


@functools.cache
def tokens(name):
    """The greedy ones of a model that tests only look at."""
    return generate(model(name), name)


def trainable(name):
    """A new model, as one trains it: one that is packed gets adapters."""
    some = MODELS[name].build()
    if getattr(some, "is_loaded_in_4bit", False):
        peft = pytest.importorskip("peft")
        some = adapters(
            peft.prepare_model_for_kbit_training(some, use_gradient_checkpointing=False), TEXT_ONLY
        )
        some.enable_input_require_grads()
    return some


def rows(name, count=2):
    """Rows of equal length, with text of their own."""
    given = {**MODELS[name].inputs()}
    ids = given["input_ids"]
    many = [torch.where(ids < 60, (ids + 7 * n) % 60, ids) for n in range(count)]
    return [{k: v[0] for k, v in {**given, "input_ids": ids, "labels": ids}.items()} for ids in many]


def backward(some, name, batch):
    """Gradients of one step without a cache."""
    some.zero_grad()
    with MODELS[name].running():
        loss = some.train()(**torch.utils.data.default_collate(batch), use_cache=False).loss
    (loss * SCALE).backward()
    return {key.removeprefix("module."): value
            for key, value in gradients(some).items()}  # fmt: skip


class Steps(transformers.TrainerCallback):
    """Keeps the gradients of each step."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, *_, model, **__):
        self.seen.append(gradients(model))


def train(name, folder, resume=None, **how):
    """Gradients and losses of two steps of a Trainer."""
    settings = {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 1, "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "optim": "sgd", "learning_rate": 1e-3, "seed": 0,
        "max_grad_norm": 0, "logging_steps": 1, "disable_tqdm": True, **how,
    }  # fmt: skip
    steps = Steps()
    trainer = Trainer(
        trainable(name), transformers.TrainingArguments(**settings),
        train_dataset=rows(name, 4), callbacks=[steps],
    )  # fmt: skip
    with MODELS[name].running():
        trainer.train(resume_from_checkpoint=resume)
    return steps.seen, [row["loss"] for row in trainer.state.log_history if "loss" in row]


def length(gradient):
    return float(torch.stack([values.double().norm() for values in gradient.values()]).norm())


def near(least):
    """How far lengths of gradients may be apart."""
    return 1e-4 if least > 0.99 else 0.1


def same_training(expected, seen, least=0.999999):
    assert len(expected[0]) == len(seen[0]) > 0
    for one, other in zip(expected[0], seen[0], strict=True):
        assert one.keys() == other.keys()
        assert cosine(one, other) >= least
        assert length(other) == pytest.approx(length(one), rel=near(least))
    assert seen[1] == pytest.approx(expected[1], rel=1e-3 if least < 0.99 else 1e-5)


def forward(name, _):
    """Logits are finite, those without a cache, and those of the reference."""
    seen = logits(model(name), name, use_cache=True)
    assert seen.isfinite().all()
    assert torch.equal(seen, logits(model(name), name, use_cache=False))
    if MODELS[name].reference:
        with torch.no_grad():
            expected = MODELS[name].reference()(**MODELS[name].inputs()).logits
        assert (seen - expected).norm() / expected.norm() <= MODELS[name].error


def greedy(name, _):
    """Tokens are those by recomputation; layers with a window keep no more than it has."""
    output = generate(model(name), name, return_dict_in_generate=True)
    assert output.sequences.equal(generate(model(name), name, use_cache=False))
    config = model(name).config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    for kind, layer in zip(kinds, held(output).layers, strict=False):
        if kind == "sliding_attention" and getattr(layer, "keys", None) is not None:
            assert layer.keys.shape[-2] <= config.sliding_window


def sampling(name, _):
    """Drawn with the same seed, tokens are those by recomputation; where that rounds, the first one is drawn
    with the probabilities that the reference gives, but for 0.01 in all.
    """
    if not MODELS[name].error:
        drawn = [generate(model(name), name, do_sample=True, use_cache=cache) for cache in (True, False)]
        assert drawn[0].equal(drawn[1])
        return
    how = {"do_sample": True, "max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True}
    seen = generate(model(name), name, **how).scores[0].float().softmax(-1)
    how |= {"eos_token_id": EOS, "suppress_tokens": KEPT}
    right = MODELS[name].reference().generate(**MODELS[name].inputs(), **how).scores[0].softmax(-1)
    assert (seen - right).abs().sum() < 0.01


def static_cache(name, _):
    """Tokens are those of the cache that grows."""
    assert generate(model(name), name, cache_implementation="static").equal(tokens(name))


def assisted(name, _):
    """Tokens are the greedy ones, whether the assistant is right or not, and looked up."""
    expected = tokens(name)
    other = copy.deepcopy(model(name))
    torch.manual_seed(0)
    for weight in other.parameters():
        if weight.is_floating_point():
            weight.data *= 1 + torch.randn_like(weight)
    for assistant in (copy.deepcopy(model(name)), other):
        assert generate(model(name), name, assistant_model=assistant).equal(expected)
    looked_up = generate(model(name), name, prompt_lookup_num_tokens=3)
    assert looked_up[:, : expected.shape[1]].equal(expected)  # 5.5.0 may give one more than was asked for


def own_assistant(name, _):
    """Tokens are the greedy ones with the assistant that Gemma-4 has for that."""
    assert generate(model(name), name, assistant_model=_tiny.assistant()).equal(tokens(name))


def compiled(name, _):
    """Logits are those of eager, of one graph."""
    torch._dynamo.reset()
    graphs = CompileCounter()
    expected = logits(model(name), name, use_cache=False)  # which makes some parts
    whole = torch.compile(model(name), fullgraph=True, dynamic=False, backend=graphs)
    assert torch.equal(logits(whole, name, use_cache=False), expected)
    assert graphs.frame_count == 1


def exported(name, _):
    """The program gives the logits of eager."""
    given = {**MODELS[name].inputs(), "use_cache": False}
    with torch.no_grad(), MODELS[name].running():
        program = torch.export.export(model(name), (), given).module()
        assert torch.equal(program(**given).logits, logits(model(name), name, use_cache=False))


def copies(name, folder):
    """A deep copy, a pickle and what was saved give the same logits."""
    original = model(name)
    original.save_pretrained(folder)
    for other in (
        copy.deepcopy(original),
        pickle.loads(pickle.dumps(original)),
        MODELS[name].load(original, folder),
    ):
        for cache in (True, False):
            assert torch.equal(logits(other, name, use_cache=cache), logits(original, name, use_cache=cache))


@functools.cache
def stopped(name):
    """Gradients and losses of a Trainer that saves after each step, and where it saved."""
    folder = tempfile.mkdtemp()
    return *train(name, folder, save_strategy="steps", save_steps=1), folder


def checkpointing(name, folder):
    """A Trainer's gradients and losses are those without, if it is reentrant; where layers share K/V,
    those of the first step also in the Trainer's own way and in torch's.
    """
    how = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    same_training(stopped(name), train(name, folder, **how))
    steps, losses, _ = stopped(name)
    for default in (None, {}) if name in SHARING else ():
        how["gradient_checkpointing_kwargs"] = default
        same_training((steps[:1], losses[:1]), train(name, folder, max_steps=1, **how))


def accumulation(name, folder):
    """A step of two rows one by one is a step of two rows at once. Where upstream divides twice, other losses
    than those of text are doubled; without the repair the gradients of text are half, and float16 keeps too
    little of them.
    """
    single = train(name, folder, gradient_accumulation_steps=2, max_steps=1)
    both = train(name, folder, per_device_train_batch_size=2, max_steps=1)
    if DIVIDES_TWICE:
        repaired = zoo_hooks.report()["transformers/trainer-divides-twice"].status is Status.APPLIED
        factor = 1.0 if repaired or name in SEEING else 0.5
        halved = [{key: factor * gradient for key, gradient in step.items()} for step in both[0]]
        both = halved, [2 * loss if name in SEEING else loss for loss in both[1]]
        if MODELS[name].error and factor < 1:
            assert single[1] == pytest.approx(both[1], rel=1e-3)
            return
    same_training(both, single, MODELS[name].least)


def resuming(name, folder):
    """The second step of a Trainer that was stopped after the first is that of one that was not."""
    *whole, saved = stopped(name)
    rest = train(name, folder, resume=str(Path(saved, "checkpoint-1")))
    same_training((whole[0][1:], whole[1]), rest)


ACTIVITIES = [
    forward, greedy, sampling, static_cache, assisted, compiled, exported, copies, checkpointing,
    accumulation, resuming,
]  # fmt: skip


TRACING = ("compiled", "exported")


def applied():
    """The patches that are applied here, once all that they are about is imported."""
    for target in {target for patch in HERE for target in catalogue.get(patch).targets}:
        if exists(target):
            importlib.import_module(target)
    report = zoo_hooks.report()
    return {patch for patch in HERE if report[patch].status is Status.APPLIED}


def to_trace():
    """The models that tell something when they are traced, which is costly.

    Of the others no patch is applied, or one that is run in the same way has all of them.
    """
    here, found = applied(), {}
    about = {name: {patch for patch in here if name in PATCHES[patch]} for name in NAMES}
    for name in sorted(filter(about.get, NAMES), key=lambda name: -len(about[name])):
        alike = found.setdefault((MODELS[name].inputs, MODELS[name].running), [])
        if not any(about[name] <= about[other] for other in alike):
            alike.append(name)
    return set().union(*found.values())


REFUSED = {
    (activity, name): asked
    for activity, releases, names, asked in CANNOT
    for name in names
    if Requirement(releases).specifier.contains(transformers.__version__, prereleases=True)
}
"""What this release cannot do, and the model of which it is asked without the hooks."""
TRACED = to_trace()
CASES = [
    (activity.__name__, name)
    for activity in ACTIVITIES
    for name in NAMES
    if activity.__name__ not in TRACING or name in TRACED or (activity.__name__, name) in REFUSED
]


def tried(activity, name):
    """The error that an activity ends with: its first line, for others may name our wrappers."""
    model.cache_clear()  # what fails may leave a model half changed
    try:
        with tempfile.TemporaryDirectory() as folder:
            globals()[activity](name, folder)
    except AssertionError:
        return ["AssertionError", ""]  # what it says holds figures
    except Exception as error:  # noqa: BLE001 - it is compared
        return [type(error).__name__, str(error).partition("\n")[0]]
    return None


def alone(code, **variables):
    """Run code in a child in which this module is imported; returns what it printed last."""
    code = f"import sys; sys.path[:0] = {sys.path!r}\nimport test_battery\n{code}"
    return child(code, timeout=300, **variables).stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def refusals():
    """The errors of what this release cannot do, without and with the hooks, each side in a child."""

    def errors(pairs, hooks):
        code = f"import json; print(json.dumps([test_battery.tried(*pair) for pair in {pairs!r}]))"
        return dict(zip(pairs, json.loads(alone(code, ZOO_HOOKS=hooks)), strict=True))

    asked = sorted({(activity, name) for (activity, _), name in REFUSED.items()})
    return errors(asked, "0"), errors(sorted(REFUSED), os.environ.get("ZOO_HOOKS", ""))


def run(activity, name, folder, request):
    """Run an activity; what upstream cannot do fails as it does without the hooks."""
    if (activity, name) in REFUSED:
        without, with_hooks = request.getfixturevalue("refusals")
        now, before = with_hooks[activity, name], without[activity, REFUSED[activity, name]]
        # A compiler names whichever fault it meets first.
        assert now == before is not None or (activity == "compiled" and now and before)
    else:
        globals()[activity](name, folder)


@pytest.mark.parametrize(("activity", "name"), CASES)
def test_with_the_hooks_it_is_as_on_a_right_upstream(activity, name, tmp_path, request):
    """What holds is said with each activity."""
    run(activity, name, tmp_path, request)


@pytest.mark.parametrize("name", ASSISTED)
def test_a_model_and_its_own_assistant_generate_the_greedy_tokens(name, tmp_path, request):
    """Where the release has one."""
    run("own_assistant", name, tmp_path, request)


def ways(name):
    return ("plain", "checkpointed") if name in SHARING else ("plain",)


def idle(name):
    """Tell whether upstream leaves some parameters without a gradient, as where it cannot train at all."""
    some = trainable(name)
    with contextlib.ExitStack() as stack, contextlib.suppress(Exception):
        for patch in (patch for patch in HERE if name in PATCHES[patch]):
            stack.enter_context(zoo_hooks.disabled(patch))
        backward(some, name, rows(name)[:1])
    return any(weight.requires_grad and weight.grad is None for weight in some.parameters())


def ranks(folder):
    """Run in two processes; all that is costly, and all models, they find ready."""
    ready = {(name, how): (trainable(name), idle(name)) for name in NAMES for how in ways(name)}
    gc.freeze()
    torch.multiprocessing.start_processes(rank, args=(folder, ready), nprocs=2, start_method="fork")


def rank(number, folder, ready):
    """Save the gradients that both processes have after the last of three steps, each on a row of its own."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=number, world_size=2)
    seen = {}
    for (name, how), (some, idle) in ready.items():
        if how == "checkpointed":
            some.gradient_checkpointing_enable({})
        shared = torch.nn.parallel.DistributedDataParallel(some, find_unused_parameters=idle)
        for _ in range(3):  # what has no gradient raises in the second
            seen[name, how] = backward(shared, name, rows(name)[number : number + 1])
    torch.save(seen, f"{folder}/{number}")


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """Gradients of two gloo processes by model."""
    folder = tmp_path_factory.mktemp("ranks")
    alone(
        f"test_battery.ranks({str(folder)!r}); print()",
        ZOO_HOOKS=os.environ.get("ZOO_HOOKS", ""), GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    return [torch.load(folder / str(number)) for number in (0, 1)]


@every_model
def test_two_processes_have_the_gradients_of_one(name, distributed):
    """Each on a row of its own, together those of both rows at once; checkpointed too if it shares K/V.
    DDP has its default arguments where upstream gives every parameter a gradient.
    """
    expected = backward(trainable(name), name, rows(name))
    least = MODELS[name].least
    for seen in distributed:
        for how in ways(name):
            found = seen[name, how]
            assert found.keys() == expected.keys()
            assert cosine(expected, found) >= least
            assert length(found) == pytest.approx(length(expected), rel=near(least))


@pytest.mark.parametrize("patch", HERE)
def test_the_patch_is_in_force(patch):
    """Each patch has the status that its verdict calls for."""
    for target in filter(exists, catalogue.get(patch).targets):
        importlib.import_module(target)
    expected = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED", "ABSENT": "PENDING"}
    assert zoo_hooks.report()[patch].status.name == expected[recorded(patch)]


def test_every_patch_has_a_model():
    """Also those that this release needs; each that is listed exists."""
    assert SPECIAL.keys() <= PATCHES.keys()
    assert all(set(PATCHES[patch]) & set(MODELS) for patch in HERE if recorded(patch) != "ABSENT")
