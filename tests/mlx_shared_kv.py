"""What must hold of MLX models whose last layers use the K/V of earlier ones, against the oracle."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import pickle
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from conftest import python
from mlx import nn
from mlx.utils import tree_flatten

import zoo_hooks
from zoo_hooks.patches.mlx_lm import _tiny
from zoo_hooks.patches.mlx_lm._linked import Held

ORACLE = Path(__file__).parent / "shared_kv_oracle.py"
PREFIX = 5
WITHIN = 1e-4


@functools.cache
def oracle(family: str, length: int, padding: tuple[tuple[int, ...], ...] = ()):
    """Logits, and gradients by their names in MLX, of transformers with eager attention.

    Of one row; where a mask of padding is given, of as many as that has.
    """
    model = getattr(_tiny, family)()
    config = getattr(_tiny, family.upper()) | {"rope_parameters": _tiny.ROPE}
    config = {
        key: value for key, value in config.items() if key not in ("rope_theta", "rope_local_base_freq")
    }
    weights = {key: np.array(value) for key, value in tree_flatten(model.parameters())}
    with tempfile.TemporaryDirectory() as folder:
        given, answer = f"{folder}/given.npz", f"{folder}/answer.npz"
        tokens = np.array(_tiny.prompt(length, len(padding) or 1))
        weights |= {"mask": np.array(padding)} if padding else {}
        np.savez(given, tokens=tokens, model=json.dumps([family, config]), **weights)
        # An interpreter with torch and transformers, which no MLX environment needs; see tox.ini.
        command = [os.environ["ORACLE_PYTHON"], ORACLE, given, answer]
        subprocess.run(command, check=True, env=os.environ | {"ZOO_HOOKS": "0"})
        found = {key: mx.array(value) for key, value in np.load(answer).items()}
    logits = found.pop("logits")
    return logits, {key.removeprefix("model."): gradient for key, gradient in found.items()}


def largest(one, other):
    return abs(one - other).max().item()


class SharedKV:
    """A subclass names the model, its patches, and how many tokens its release gets right."""

    name: str
    no_cache: str
    offset: str
    length = 12
    batches = True

    @property
    def model(self):
        return getattr(_tiny, self.name)()

    @property
    def truth(self):
        """Logits and gradients. The weights are the same in both packages; the names are not."""
        logits, gradients = oracle(self.name.rpartition("_")[2], self.length)
        prefix = "model." if "model" in self.model else ""
        return logits, {prefix + name: gradient for name, gradient in gradients.items()}

    @property
    def tokens(self):
        return _tiny.prompt(self.length)

    def stepwise(self, model, tokens):
        """Logits of a prefill and of one decoding step for each token after it."""
        cache = model.make_cache()
        parts = [tokens[:, :PREFIX], *mx.split(tokens[:, PREFIX:], tokens.shape[1] - PREFIX, axis=1)]
        return mx.concatenate([_tiny.logits(model, part, cache) for part in parts], axis=1)

    def reference(self, model):
        return [Held() for _ in model.layers]

    def applied(self, patch):
        return zoo_hooks.report()[patch].status.name == "APPLIED"


class WithoutCache(SharedKV):
    """Tests of forwards without a cache, as training runs them."""

    def test_logits_without_a_cache_are_the_oracles(self):
        """Within 1e-4; without the repair they are off by more than 1."""
        expected, _ = self.truth
        right = largest(_tiny.logits(self.model, self.tokens), expected)
        with zoo_hooks.disabled(self.no_cache):
            wrong = largest(_tiny.logits(self.model, self.tokens), expected)
        print(f"{self.name} logits without a cache: {wrong:.2g} without, {right:.2g} with the hooks")
        assert right < WITHIN
        assert (wrong > 1) == self.applied(self.no_cache)

    @pytest.mark.parametrize("how", ["eager", "checkpointed", "compiled"])
    def test_kv_gradients_without_a_cache_are_the_oracles(self, how):
        """Each within 1e-4, relative; without the repair one is off by more than a tenth."""
        _, expected = self.truth
        model = self.model

        def gradients():
            if how != "compiled":
                return _tiny.kv_gradients(model, self.tokens)
            state, tokens = [model.state], self.tokens
            return mx.compile(lambda: _tiny.kv_gradients(model, tokens), inputs=state, outputs=state)()

        if how == "checkpointed":
            _tiny.checkpoint(model.layers)
        seen = gradients()
        assert {name for name, gradient in seen.items() if bool(gradient.any())} == set(expected)
        right = _tiny.error(expected, seen)
        with zoo_hooks.disabled(self.no_cache):
            wrong = _tiny.error(expected, gradients())
        print(f"{self.name} K/V gradients, {how}: {wrong:.2g} without, {right:.2g} with the hooks")
        assert right < WITHIN
        assert (wrong > 0.1) == self.applied(self.no_cache)

    @pytest.mark.parametrize("checkpointed", [False, True])
    def test_kv_gradients_are_the_slopes_of_the_loss(self, checkpointed):
        """Finite differences along each K/V gradient: within 1%, which is what fp32 gives."""
        model, tokens = self.model, self.tokens
        if checkpointed:
            _tiny.checkpoint(model.layers)
        for name, gradient in _tiny.kv_gradients(model, tokens).items():
            size = mx.sqrt(mx.square(gradient).sum()).item()
            if size:
                weight = dict(tree_flatten(model.parameters()))[name]
                ends = []
                for step in (0.0005, -0.0005):
                    model.load_weights([(name, weight + step * gradient / size)], strict=False)
                    ends.append(_tiny.loss(model, tokens).item())
                model.load_weights([(name, weight)], strict=False)
                assert (ends[0] - ends[1]) / 0.001 == pytest.approx(size, rel=0.01, abs=1e-3), name

    def test_a_batch_is_each_row_alone(self):
        """Logits without a cache and with one, and gradients, of three rows."""
        if not self.batches:
            pytest.skip("this release's Gemma-3n takes one row")
        model, tokens = self.model, _tiny.prompt(self.length, 3)
        rows = mx.split(tokens, 3)
        for forward in (_tiny.logits, self.stepwise):
            alone = mx.concatenate([forward(model, row) for row in rows])
            assert largest(forward(model, tokens), alone) < 1e-5
        each = [_tiny.kv_gradients(model, row) for row in rows]
        mean = {name: sum(one[name] for one in each) / 3 for name in each[0]}
        assert _tiny.error(mean, _tiny.kv_gradients(model, tokens)) < WITHIN

    def test_embeddings_may_stand_for_tokens(self):
        """By keyword, beside the tokens that make the inputs of single layers; caches may all be None."""
        model, tokens = self.model, self.tokens
        expected = _tiny.logits(model, tokens)
        assert mx.array_equal(_tiny.logits(model, tokens, [None] * len(model.layers)), expected)
        parameters = inspect.signature(type(model).__call__).parameters
        name = "inputs_embeds" if "inputs_embeds" in parameters else "input_embeddings"
        given = model(tokens, **{name: embedded(model, tokens)})
        assert largest(as_logits(given), expected) < 1e-5
        with zoo_hooks.disabled(self.no_cache):
            wrong = largest(as_logits(model(tokens, **{name: embedded(model, tokens)})), expected)
        assert (wrong > 1) == self.applied(self.no_cache)

    def test_forwards_with_caches_are_as_they_were(self):
        """Bit for bit, with all caches and with some; embeddings and caches by place or by keyword."""
        model, tokens = self.model, self.tokens
        position = list(inspect.signature(type(model).__call__).parameters).index("cache") - 1

        def outputs():
            cache, mixed = model.make_cache(), model.make_cache()
            mixed[-1] = None
            return [
                self.stepwise(model, tokens),
                _tiny.logits(model, tokens, mixed),
                as_logits(model(tokens, *[None] * (position - 1), cache)),
            ]

        right = outputs()
        with zoo_hooks.disabled(self.no_cache):
            assert all(mx.array_equal(*pair) for pair in zip(outputs(), right, strict=True))

    def test_layers_called_alone_are_as_they_were(self):
        """Bit for bit, with a cache and without: only a model's own loop links them."""
        model = self.model
        hidden = mx.random.normal((1, 4, 32), key=mx.random.key(3))
        if "gemma3n" in self.name:
            hidden = mx.stack([hidden, hidden])
        per_layer = mx.random.normal((1, 4, 8), key=mx.random.key(4))

        shares = self.applied(self.no_cache)  # others have no projections of which to make K/V there

        def outputs():
            calls = [(1, None), (1, model.make_cache()[1]), *([(4, None)] if shares else [])]
            return [tree_flatten(model.layers[n](hidden, "causal", given, per_layer)) for n, given in calls]

        right = outputs()
        with zoo_hooks.disabled(self.no_cache), zoo_hooks.disabled(self.offset):
            for one, two in zip(outputs(), right, strict=True):
                assert all(
                    mx.array_equal(a[1], b[1]) for a, b in zip(one, two, strict=True) if a[1] is not None
                )

    def test_the_model_that_users_hold_is_not_touched(self):
        """No attribute, no layer and no weight differs after a forward; copies and pickles work."""
        model = self.model
        backbone = model.model if "model" in model else model
        before = (list(backbone.layers), dict(vars(backbone)), list(backbone))
        expected = _tiny.logits(model, self.tokens)
        self.stepwise(model, self.tokens)
        assert all(one is two for one, two in zip(backbone.layers, before[0], strict=True))
        assert (dict(vars(backbone)), list(backbone)) == before[1:]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert mx.array_equal(_tiny.logits(other, self.tokens), expected)

    def test_a_model_whose_layers_share_nothing_is_as_it_was(self):
        """Bit for bit, with and without a cache."""
        model = getattr(_tiny, self.name)(num_kv_shared_layers=0)

        def outputs():
            return _tiny.logits(model, self.tokens), self.stepwise(model, self.tokens)

        right = outputs()
        with zoo_hooks.disabled(self.no_cache), zoo_hooks.disabled(self.offset):
            assert all(mx.array_equal(*pair) for pair in zip(outputs(), right, strict=True))

    def test_quantised_layers(self):
        """Logits are those with caches that stay at offset 0, and ten steps lower the loss."""
        model = self.model
        nn.quantize(model, group_size=32, bits=8, class_predicate=lambda _, part: quantisable(part))
        tokens = self.tokens
        expected = _tiny.logits(model, tokens, self.reference(model))
        right = largest(_tiny.logits(model, tokens), expected)
        with zoo_hooks.disabled(self.no_cache):
            wrong = largest(_tiny.logits(model, tokens), expected)
        print(
            f"{self.name}, quantised, logits without a cache: {wrong:.2g} without, {right:.2g} with the hooks"
        )
        assert right == 0
        assert (wrong > 1) == self.applied(self.no_cache)
        losses = []
        for _ in range(10):
            loss, gradients = nn.value_and_grad(model, lambda some: _tiny.loss(some, tokens))(model)
            losses.append(loss.item())
            floats = [(name, value) for name, value in tree_flatten(gradients) if "norm" in name]
            weights = dict(tree_flatten(model.parameters()))
            model.load_weights([(name, weights[name] - 0.1 * value) for name, value in floats], strict=False)
        print(f"{self.name}, quantised, losses of ten steps: {losses[0]:.4g} to {losses[-1]:.4g}")
        assert losses[-1] < losses[0]

    def test_a_release_without_the_bug_is_bit_identical(self):
        """Logits and gradients of a child with the hooks are those of one without, to the last bit."""
        same = [one == two for one, two in zip(*digests()[self.name], strict=True)]
        assert same == [not self.applied(self.no_cache), not self.applied(self.offset)]


class WithCache(SharedKV):
    """Tests of forwards with a cache, as generation runs them."""

    def test_prefill_and_decode_are_the_oracles(self):
        """Within 1e-4, beyond the window too; without the repair off by more than a tenth, each."""
        expected, _ = self.truth
        with zoo_hooks.disabled(self.offset):
            wrong = abs(self.stepwise(self.model, self.tokens) - expected)
        right = abs(self.stepwise(self.model, self.tokens) - expected)
        for part, where in (("prefill", slice(PREFIX)), ("decode", slice(PREFIX, None))):
            before, after = (some[:, where].max().item() for some in (wrong, right))
            print(f"{self.name} logits, {part}: {before:.2g} without, {after:.2g} with the hooks")
            assert after < WITHIN
            assert (before > 0.1) == self.applied(self.offset)

    def test_kv_gradients_through_prefill_and_decode_are_the_oracles(self):
        """The loss of a cached forward, whole or token by token, has the oracle's gradients."""
        _, expected = self.truth
        model, tokens = self.model, self.tokens

        def gradients(forward):
            def loss(some):
                return nn.losses.cross_entropy(forward(some)[:, :-1], tokens[:, 1:]).mean()

            return dict(tree_flatten(nn.value_and_grad(model, loss)(model)[1]))

        for forward in (
            lambda some: _tiny.logits(some, tokens, some.make_cache()),
            lambda some: self.stepwise(some, tokens),
        ):
            right = _tiny.error(expected, gradients(forward))
            with zoo_hooks.disabled(self.offset):
                wrong = _tiny.error(expected, gradients(forward))
            print(f"{self.name} K/V gradients with a cache: {wrong:.2g} without, {right:.2g} with the hooks")
            assert right < WITHIN
            assert (wrong > 0.1) == self.applied(self.offset)

    def test_caches_of_batches_are_the_oracles(self):
        """One row, and rows that begin with padding: their offsets are arrays, which move in place."""
        model, tokens, start = self.model, self.tokens, self.length - 2

        def stepwise(tokens, padding):
            caches = model.make_cache()
            kinds = [
                getattr(sys.modules[type(one).__module__], "Batch" + type(one).__name__) for one in caches
            ]
            sizes = [[one.max_size] if hasattr(one, "max_size") else [] for one in caches]
            cache = [kind(*size, list(padding)) for kind, size in zip(kinds, sizes, strict=True)]
            parts = [tokens[:, :PREFIX], *mx.split(tokens[:, PREFIX:], tokens.shape[1] - PREFIX, axis=1)]
            return mx.concatenate([_tiny.logits(model, part, cache) for part in parts], axis=1)

        def errors():
            found = [largest(stepwise(tokens, [0]), self.truth[0])]
            if self.batches:
                shorter = mx.concatenate([mx.zeros((1, 2), dtype=tokens.dtype), tokens[:, :start]], axis=1)
                rows = stepwise(mx.concatenate([tokens, shorter]), [0, 2])
                found.append(largest(rows[:1], self.truth[0]))
                found.append(largest(rows[1:, 2:], self.truth[0][:, :start]))
            return found

        right = errors()
        with zoo_hooks.disabled(self.offset):
            try:
                wrong = errors()
            except ValueError as error:  # mlx-lm's, which takes K and V alone from what such a cache has
                wrong = str(error)
        print(f"{self.name} logits, caches of batches: {wrong} without, {right} with the hooks")
        assert max(right) < WITHIN
        assert (wrong == "too many values to unpack (expected 2)" or min(wrong) > 0.1) == self.applied(
            self.offset
        )

    def test_upstreams_own_generator_gives_the_greedy_tokens(self):
        """Its prefill comes in pieces; each token is the greedy one of a forward without a cache."""
        model, seen, expected = self.model, self.tokens[:, :PREFIX], []
        for _ in range(self.length - PREFIX):
            expected.append(mx.argmax(_tiny.logits(model, seen)[0, -1]).item())
            seen = mx.concatenate([seen, mx.array([[expected[-1]]])], axis=1)
        some = {"max_tokens": len(expected), "prefill_step_size": 2}
        made = [int(token) for token, _ in generated(self.name, model, self.tokens[:, :PREFIX], some)]
        with zoo_hooks.disabled(self.offset):
            wrong = [int(token) for token, _ in generated(self.name, model, self.tokens[:, :PREFIX], some)]
        print(f"{self.name}, generated: {wrong} without, {made} with the hooks, {expected} without a cache")
        assert made[: len(expected)] == expected

    def test_greedy_tokens_with_a_cache_are_those_without(self):
        """Eight tokens, beyond the window unless the release has none."""
        model = self.model
        seen, cache, last = self.tokens[:, :PREFIX], model.make_cache(), self.tokens[:, :PREFIX]
        for _ in range(self.length - PREFIX):
            last = mx.argmax(_tiny.logits(model, last, cache)[:, -1:], axis=-1)
            plain = mx.argmax(_tiny.logits(model, seen)[:, -1:], axis=-1)
            assert last.item() == plain.item()
            seen = mx.concatenate([seen, last], axis=1)


@functools.cache
def digests():
    """Of each model: digests without and with a cache, of a child with the hooks and of one without."""
    code = """
        import hashlib, numpy
        from zoo_hooks.patches.mlx_lm import _tiny
        for name in ("gemma4", "gemma3n", "mlx_lm_gemma3n"):
            model, tokens = getattr(_tiny, name)(), _tiny.prompt()
            plain = [_tiny.logits(model, tokens), *_tiny.kv_gradients(model, tokens).values()]
            cached = [_tiny.logits(model, tokens, model.make_cache())]
            for some in (plain, cached):
                print(hashlib.sha256(b"".join(numpy.array(one).tobytes() for one in some)).hexdigest())
    """
    sides = python(code).split(), python(code, ZOO_HOOKS="0").split()
    names = ("gemma4", "gemma3n", "mlx_lm_gemma3n")
    return {name: [side[2 * n : 2 * n + 2] for side in sides] for n, name in enumerate(names)}


def trainers():
    """Those of mlx-vlm's that this release has: a function, and from 0.7 on a class."""
    module = import_module("mlx_vlm.trainer")
    return ["train", *(["Trainer"] if hasattr(module, "VLMTrainingArgs") else [])]


def trained(name, how, trainer, **variables):
    """Errors of the gradients of three steps of mlx-vlm's own trainer, in a child; infinite if it raises."""
    script = Path(__file__).parent / "patches" / "mlx_vlm" / "trainer.py"
    command = [sys.executable, script, name, how, trainer]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    if "ValueError: [broadcast_shapes]" in run.stderr:  # a mask of two rows or more
        return [float("inf")]
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])["errors"]


def as_logits(output):
    return getattr(output, "logits", output)


def generated(name, model, tokens, options):
    """Tokens from mlx-lm's generator, or from mlx-vlm's, which wants a model with a vision tower."""
    if name == "mlx_lm_gemma3n":
        return import_module("mlx_lm.generate").generate_step(tokens[0], model, **options)
    shell = SimpleNamespace(
        language_model=model,
        config=SimpleNamespace(model_type="text"),
        make_cache=model.make_cache,
        get_input_embeddings=lambda *_, **__: SimpleNamespace(
            inputs_embeds=embedded(model, tokens), to_dict=lambda: {"inputs_embeds": embedded(model, tokens)}
        ),
    )
    return import_module("mlx_vlm.generate").generate_step(tokens, shell, None, None, **options)


def embedded(model, tokens):
    backbone = model.model if "model" in model else model
    return backbone.embed_tokens(tokens) * _tiny.TEXT["hidden_size"] ** 0.5


def quantisable(part):
    return hasattr(part, "to_quantized") and part.weight.shape[-1] % 32 == 0
