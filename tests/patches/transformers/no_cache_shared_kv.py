"""What must hold without a cache where layers share K/V, for the tests of both no-cache patches."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import pickle
import threading

import pytest
import torch
from shared_kv import MODELS, backward, cosine, gradients, inputs
from torch.nn.parallel import DistributedDataParallel

import zoo_hooks
from zoo_hooks.patches.transformers import _shared_kv, _tiny
from zoo_hooks.patches.transformers._zero_shared import CACHE, held

LEAST = 0.999999
UNUSED = ("k_proj", "v_proj", "k_norm")
"""Parts of a layer that shares, which this release makes and a right one does not."""
E4B = {
    "num_hidden_layers": 7,
    "num_kv_shared_layers": 3,
    "layer_types": [f"{kind}_attention" for kind in ("sliding", "full") * 2 + ("sliding", "sliding", "full")],
}
"""Of its four layers that do not share, only the last two make what the others use."""


def with_cache():
    """A cache of one forward's own: in training 4.57.6 makes none."""
    from transformers import DynamicCache

    return {"use_cache": True, "past_key_values": DynamicCache()}


@contextlib.contextmanager
def process_group(folder):
    """A group of this one process."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def lora(some, **more):
    """Adapters on all projections of the text model's attention."""
    peft = pytest.importorskip("peft")
    names = r"(?!.*tower).*\.[qkvo]_proj"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return peft.get_peft_model(some, peft.LoraConfig(r=4, target_modules=names, **more))


def non_reentrant(some):
    some.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return some


TRAINED = {"full": lambda some: some, "lora": lora, "checkpointed": non_reentrant}


def train(some, how, run=None):
    """Losses of three steps; what no input reaches is frozen."""
    for name, parameter in some.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and "audio" not in name)
    run = run or (lambda model: model)
    model = run(some.train())
    optimizer = torch.optim.AdamW([p for p in some.parameters() if p.requires_grad], 1e-3, weight_decay=0)
    losses = []
    for _ in range(3):
        loss = model(**inputs(some), **how()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def without_cache():
    return {"use_cache": False}


def sharing(some):
    return [part for part in some.modules() if getattr(part, "is_kv_shared_layer", False)]


def unused(some):
    """Parts that a layer has for K/V of its own, though it shares."""
    return [getattr(part, name) for part in sharing(some) for name in UNUSED if hasattr(part, name)]


def carriers():
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is _shared_kv.Carrier]


class NoCacheSharedKV:
    """Tests; a subclass names the patch and the model."""

    patch: str
    name: str

    @property
    def model(self):
        return MODELS[self.name]()

    def logits(self, some=None, *args, **kwargs):
        with torch.no_grad():
            return (self.model if some is None else some)(*(args or (_tiny.prompt(),)), **kwargs).logits

    def test_logits_are_those_of_the_cached_forward_bit_for_bit(self):
        """Difference 0.0, by the argument, by the config, and as a tuple; no cache in the result."""
        some = self.model
        cached = self.logits(some, use_cache=True)
        with torch.no_grad():
            output = some(_tiny.prompt(), use_cache=False)
            assert held(output) is None
            assert torch.equal(output.logits, cached)
            assert torch.equal(some(_tiny.prompt(), None, None, None, use_cache=False)[0], cached)
            parts = some(_tiny.prompt(), use_cache=False, return_dict=False)
            assert torch.equal(parts[0], cached)
            assert not any(hasattr(part, "update") for part in parts)
            some.config.get_text_config().use_cache = False
            assert torch.equal(some(_tiny.prompt(), past_key_values=None).logits, cached)

    def test_token_by_token_equals_prefill(self):
        """Greedy tokens without a cache are those with one, and each logit agrees."""
        some, cache, steps = self.model, None, []
        for token in _tiny.prompt()[0]:
            with torch.no_grad():
                output = some(token[None, None], past_key_values=cache, use_cache=True)
            cache = held(output)
            steps.append(output.logits)
        whole = self.logits(some, use_cache=False)
        assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-5)
        how = {"max_new_tokens": 8, "do_sample": False}
        with_cache = some.generate(_tiny.prompt(), **how)
        assert some.generate(_tiny.prompt(), use_cache=False, **how).equal(with_cache)

    def test_a_cache_that_is_given_is_used_and_filled(self):
        """With use_cache=False too, as upstream does, and without a carrier in it."""
        from transformers import DynamicCache

        some, cache = self.model, DynamicCache()
        expected = self.logits(some, use_cache=True)
        assert torch.equal(self.logits(some, past_key_values=cache, use_cache=False), expected)
        assert cache.get_seq_length() == 12
        names = list(inspect.signature(some.forward).parameters)
        cache = DynamicCache()
        name = next(name for name in CACHE if name in names)
        given = {"input_ids": _tiny.prompt(), name: cache, "use_cache": False}
        positional = [given.get(name) for name in names[: names.index("use_cache") + 1]]
        assert torch.equal(self.logits(some, *positional), expected)
        assert cache.get_seq_length() == 12
        given[name] = None
        positional = [given.get(name) for name in names[: names.index("use_cache") + 1]]
        assert torch.equal(self.logits(some, *positional), expected)

    @pytest.mark.parametrize("how", [{}, {"use_reentrant": True}, {"use_reentrant": False}], ids=str)
    def test_training_is_right_under_checkpointing(self, how):
        """Gradients are those with a cache and no checkpointing, which share K/V upstream too."""
        expected, calls = backward(self.model, **with_cache())
        assert cosine(expected, backward(self.model)[0]) >= LEAST
        some = self.model
        some.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        seen, recomputed = backward(some)
        assert cosine(expected, seen) >= LEAST
        assert recomputed == 2 * calls

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_two_forwards_before_one_backward(self, checkpointing):
        """As preference losses do: the carriers do not mix."""

        def both(some, how):
            ids = inputs(some)["input_ids"]
            ids = torch.where(ids < 60, (ids + 7) % 60, ids)  # those of an image stay
            other = {**inputs(some), "input_ids": ids, "labels": ids}
            some.train()
            (some(**inputs(some), **how()).loss - 0.5 * some(**other, **how()).loss).backward()
            return gradients(some)

        some = self.model
        if checkpointing:
            some.gradient_checkpointing_enable(gradient_checkpointing_kwargs={})
        seen = both(some, lambda: {"use_cache": False})
        assert cosine(both(self.model, with_cache), seen) >= LEAST

    @pytest.mark.parametrize("how", TRAINED)
    @pytest.mark.parametrize("cache", [without_cache, with_cache])
    def test_plain_data_parallel_training_is_that_of_one_process(self, how, cache, tmp_path):
        """Three steps with DDP's default arguments, of which the second raises where a gradient is missing.

        The losses are those with a cache and without DDP, where upstream shares K/V.
        """
        some = TRAINED[how](self.model)
        expected = train(TRAINED["lora" if how == "lora" else "full"](self.model), with_cache)
        with process_group(tmp_path):
            assert train(some, cache, DistributedDataParallel) == pytest.approx(expected, rel=1e-5)
        assert not [name for name, p in some.named_parameters() if p.requires_grad and p.grad is None]

    @pytest.mark.parametrize("cache", [without_cache, with_cache])
    def test_what_a_layer_does_not_use_is_not_trained(self, cache):
        """Its gradients are zeros, its weights stay, and its projections see no token."""
        some, tokens = self.model, []
        parameters = [parameter for part in unused(some) for parameter in part.parameters()]
        assert bool(parameters) == (zoo_hooks.report()[self.patch].status.name == "APPLIED")
        before = [parameter.detach().clone() for parameter in parameters]
        for part in unused(some):
            part.register_forward_hook(lambda _, given, __: tokens.append(given[0].shape[1]))
        train(some, cache)
        assert not any(tokens)
        assert not any(parameter.grad.any() for parameter in parameters)
        assert all(map(torch.equal, parameters, before))

    def test_checkpoints_have_the_keys_of_the_release(self, tmp_path):
        """What is saved with the repair loads without it, and the reverse; nothing is missing or made new."""
        some, given = self.model, inputs(self.model)
        with zoo_hooks.disabled(self.patch):
            plain = self.model
            assert plain.state_dict().keys() == some.state_dict().keys()
            plain.save_pretrained(tmp_path / "plain")
        some.save_pretrained(tmp_path / "repaired")

        def loaded(folder):
            other, told = type(some).from_pretrained(tmp_path / folder, output_loading_info=True)
            assert not [name for kind in told.values() for name in kind]
            return other.eval()(**given, use_cache=True).logits

        with torch.no_grad():
            repaired = loaded("plain")
            with zoo_hooks.disabled(self.patch):
                assert loaded("repaired").equal(repaired)

    def test_adapters_have_the_keys_of_the_release(self):
        """Those of layers that share too, where peft finds projections to adapt."""
        with zoo_hooks.disabled(self.patch):
            expected = lora(self.model).state_dict().keys()
        assert lora(self.model).state_dict().keys() == expected

    def test_nothing_is_held_after_the_forward_or_the_backward(self):
        """In eval no carrier lives on; in training under checkpointing it goes with the graph."""
        more = {"activation_sparsity_pattern": [0.0] * 7} if self.name == "gemma3n" else {}
        some = MODELS[self.name](**E4B, **more)
        self.logits(some, use_cache=False)
        assert not carriers()
        some.gradient_checkpointing_enable(gradient_checkpointing_kwargs={})
        loss = some.train()(**inputs(some), use_cache=False).loss
        held = [sorted(carrier.shared_layers) for carrier in carriers()]
        # A release without the bug needs no carrier.
        assert held == ([[2, 3]] if zoo_hooks.report()[self.patch].status.name == "APPLIED" else [])
        loss.backward()
        assert not carriers()
        del loss

    def test_threads_do_not_mix(self):
        """Four threads over one model and another, each with its own tokens, get their own logits."""
        one, two = self.model, copy.deepcopy(self.model)
        jobs = [(some, (_tiny.prompt() + n) % 60) for n, some in enumerate((one, two, one, two))]
        expected = [self.logits(some, ids, use_cache=True) for some, ids in jobs]
        seen = [[] for _ in jobs]

        def work(n):
            for _ in range(5):
                seen[n].append(self.logits(jobs[n][0], jobs[n][1], use_cache=False))

        threads = [threading.Thread(target=work, args=[n]) for n in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(logits, right) for logits_, right in zip(seen, expected, strict=True)
                   for logits in logits_)  # fmt: skip
        assert all(len(logits) == 5 for logits in seen)

    def test_it_compiles_into_one_graph(self):
        """``torch.compile(fullgraph=True)`` gives the same logits."""
        some = self.model
        torch._dynamo.reset()
        compiled = torch.compile(some, fullgraph=True, backend="eager")
        assert torch.equal(self.logits(compiled, use_cache=False), self.logits(some, use_cache=True))

    def test_models_can_be_copied_and_pickled(self):
        """Nothing of a forward stays on the model."""
        some = self.model
        right = self.logits(some, use_cache=False)
        for other in (copy.deepcopy(some), pickle.loads(pickle.dumps(some))):
            assert torch.equal(self.logits(other, use_cache=False), right)

    def test_an_affected_release_has_the_symptom_while_disabled(self):
        """Off by more than 0.1 inside the block where the patch is applied; 0.0 elsewhere and after."""
        some = self.model
        right = self.logits(some, use_cache=True)
        applied = zoo_hooks.report()[self.patch].status.name == "APPLIED"
        with zoo_hooks.disabled(self.patch):
            wrong = self.logits(some, use_cache=False)
        assert ((wrong - right).abs().max().item() > 0.1) == applied
        assert torch.equal(self.logits(some, use_cache=False), right)
