"""What must hold of the batches of an MLX model, in which shorter texts begin with padding."""

from __future__ import annotations

import copy
import inspect
import pickle
from importlib import import_module

import mlx.core as mx
import pytest

import zoo_hooks
from zoo_hooks.patches.mlx_lm import _tiny

LENGTHS = (9, 4, 7)
STEPS = 3


def largest(one, other):
    return abs(one - other).max().item()


class Batches:
    """A subclass names the patch, the module of the caches, and makes the model.

    ``raises`` is what a release says on any batch; without it, rows are wrong by more than ``wrong``.
    """

    patch: str
    caches: str
    wrong = 0.05
    raises = ""

    def make(self):
        raise NotImplementedError

    @property
    def applied(self):
        return zoo_hooks.report()[self.patch].status.name == "APPLIED"

    def cache(self, pads):
        kind = import_module(self.caches).BatchKVCache
        return [kind(list(pads)) for _ in self.single(self.make())]

    def single(self, model):
        return import_module(self.caches).make_prompt_cache(model)

    def rows(self, model, *, keyword=True):
        """Logits of each row's own tokens: a prompt whose rows are padded on the left, then single steps."""
        tokens, width = _tiny.prompt(max(LENGTHS) + STEPS, len(LENGTHS)), max(LENGTHS)
        pads = [width - n for n in LENGTHS]
        prompt = mx.stack([
            mx.concatenate([mx.zeros((pad,), dtype=tokens.dtype), tokens[n, : width - pad]])
            for n, pad in enumerate(pads)
        ])  # fmt: skip
        cache, parts = self.cache(pads), []
        for step in range(STEPS + 1):
            given = prompt
            if step:
                given = mx.stack([tokens[n, m + step - 1, None] for n, m in enumerate(LENGTHS)])
            place = [*[None] * (position(model) - 1), cache]
            parts.append(as_logits(model(given, cache=cache) if keyword else model(given, *place)))
        whole = mx.concatenate(parts, axis=1)
        return [whole[n, pad:] for n, pad in enumerate(pads)]

    def errors(self, model, **how):
        tokens = _tiny.prompt(max(LENGTHS) + STEPS, len(LENGTHS))
        rows = self.rows(model, **how)
        alone = [as_logits(model(tokens[n, None, : m + STEPS]))[0] for n, m in enumerate(LENGTHS)]
        return [largest(one, other) for one, other in zip(rows, alone, strict=True)]

    @pytest.mark.parametrize("keyword", [True, False])
    def test_each_row_of_a_batch_is_that_text_alone(self, keyword):
        """Prompt and steps within 1e-5; without the repair padded rows are wrong, or all raise."""
        right = self.errors(self.make(), keyword=keyword)
        wrong = right
        with zoo_hooks.disabled(self.patch):
            try:
                wrong = self.errors(self.make(), keyword=keyword)
            except ValueError as error:
                wrong = str(error)
        print(f"{self.patch}, rows of {LENGTHS} tokens: {wrong} without, {right} with the hooks")
        assert max(right) < 1e-5
        if isinstance(wrong, str):
            assert wrong == self.raises
        assert (isinstance(wrong, str) or max(wrong[1:]) > self.wrong) == self.applied

    def test_one_text_is_as_it_was(self):
        """Bit for bit, without a cache and with one; and no gradient differs."""
        model, tokens = self.make(), _tiny.prompt(8)

        def outputs():
            cache = self.single(model)
            parts = [
                as_logits(model(part, cache=cache)) for part in (tokens[:, :5], tokens[:, 5:6], tokens[:, 6:])
            ]
            return [as_logits(model(tokens)), *parts, *_tiny.kv_gradients(model, tokens).values()]

        right = outputs()
        with zoo_hooks.disabled(self.patch):
            assert all(mx.array_equal(*pair) for pair in zip(outputs(), right, strict=True))

    def test_the_model_that_users_hold_is_not_touched(self):
        """Its weights and attributes stay; a copy, a pickle and a subclass are right too."""
        model = self.make()
        before = [(dict(vars(part)), list(part)) for part in model.modules()]
        expected = self.rows(model)
        assert [(dict(vars(part)), list(part)) for part in model.modules()] == before
        sub = copy.copy(model)
        sub.__class__ = type("Sub", (type(model),), {})
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), sub):
            assert all(mx.array_equal(*pair) for pair in zip(self.rows(other), expected, strict=True))

    def test_a_step_compiles(self):
        """``mx.compile`` of a decoding step gives the same logits."""
        model = self.make()
        tokens = _tiny.prompt(6, 2)
        expected, found = self.cache([0, 2]), self.cache([0, 2])
        for cache in (expected, found):
            mx.eval(as_logits(model(tokens, cache=cache)))
        step = mx.compile(lambda some: as_logits(model(some, cache=copy.copy(found))))
        assert largest(step(tokens[:, :1]), as_logits(model(tokens[:, :1], cache=expected))) < 1e-5


def position(model):
    """Where ``cache`` stands among the arguments after self."""
    return list(inspect.signature(type(model).__call__).parameters).index("cache") - 1


def as_logits(output):
    return getattr(output, "logits", output)
