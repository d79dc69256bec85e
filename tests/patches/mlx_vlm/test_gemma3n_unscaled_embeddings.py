"""The whole Gemma-3n of mlx-vlm, not its language model alone, is that of transformers."""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx import nn
from mlx_shared_kv import PREFIX, WITHIN, largest, oracle

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.mlx_lm import _tiny
from zoo_hooks.patches.mlx_vlm import gemma3n_unscaled_embeddings as patch

PATCH = "mlx_vlm/gemma3n-unscaled-embeddings"
LENGTH = 12
SIZE = _tiny.TEXT["hidden_size"]


@pytest.fixture(scope="module")
def model():
    return _tiny.gemma3n_with_towers()


def logits(model, tokens, cache=None):
    return model(tokens, None, None, cache).logits


def stepwise(model, tokens):
    """A prompt through the whole model, then tokens through the language model, as generation does."""
    cache = model.language_model.make_cache()
    parts = mx.split(tokens[:, PREFIX:], tokens.shape[1] - PREFIX, axis=1)
    after = lambda part: model.language_model(part, cache=cache).logits  # noqa: E731
    return mx.concatenate([logits(model, tokens[:, :PREFIX], cache), *map(after, parts)], axis=1)


@pytest.mark.parametrize("forward", [logits, stepwise], ids=["without a cache", "with a cache"])
def test_logits_of_a_text_are_the_oracles(model, forward):
    """Within 1e-4; without the repair they are off by more than 1."""
    tokens = _tiny.prompt(LENGTH)
    expected, _ = oracle("gemma3n", LENGTH)
    right = largest(forward(model, tokens), expected)
    with zoo_hooks.disabled(PATCH):
        wrong = largest(forward(model, tokens), expected)
    print(f"the whole of gemma3n, {forward.__name__}: {wrong:.2g} without, {right:.2g} with the hooks")
    assert right < WITHIN
    assert wrong > 1


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_of_a_text_are_the_oracles(checkpointed):
    """Each K/V gradient within 1e-4, relative; that of the table is the language model's own."""
    model, tokens = _tiny.gemma3n_with_towers(), _tiny.prompt(LENGTH)
    model.freeze()
    model.language_model.unfreeze()
    if checkpointed:
        _tiny.checkpoint(model.language_model.layers)
    _, expected = oracle("gemma3n", LENGTH)
    expected = {f"language_model.model.{name.removeprefix('model.')}": g for name, g in expected.items()}
    table = "language_model.model.embed_tokens.weight"

    def gradients(forward):
        def loss(some):
            return nn.losses.cross_entropy(forward(some)[:, :-1], tokens[:, 1:]).mean()

        return dict(flat(nn.value_and_grad(model, loss)(model)[1]))

    expected[table] = gradients(lambda some: some.language_model(tokens).logits)[table]
    right = _tiny.error(expected, gradients(lambda some: logits(some, tokens)))
    with zoo_hooks.disabled(PATCH):
        wrong = _tiny.error(expected, gradients(lambda some: logits(some, tokens)))
    print(f"gradients of the whole of gemma3n: {wrong:.2g} without, {right:.2g} with the hooks")
    assert right < WITHIN
    assert wrong > 0.5


def test_upstreams_own_generator_gives_the_greedy_tokens(model):
    """Of a forward without a cache, though it hands a prompt on as embeddings."""
    seen, expected = _tiny.prompt(LENGTH)[:, :PREFIX], []
    prompt = seen
    for _ in range(6):
        expected.append(mx.argmax(model.language_model(seen).logits[0, -1]).item())
        seen = mx.concatenate([seen, mx.array([[expected[-1]]])], axis=1)
    generate = import_module("mlx_vlm.generate").generate_step
    some = {"max_tokens": len(expected), "prefill_step_size": 2}
    made = [int(token) for token, _ in generate(prompt, model, None, None, **some)]
    with zoo_hooks.disabled(PATCH):
        wrong = [int(token) for token, _ in generate(prompt, model, None, None, **some)]
    print(f"generated: {wrong} without, {made} with the hooks, {expected} without a cache")
    assert made[: len(expected)] == expected
    assert wrong[: len(expected)] != expected


def test_embeddings_of_images_are_as_they_were(model):
    """Text around an image is scaled, its features are not; nor is what stands for soft tokens."""
    tokens = mx.array([[2, 90, 90, 7, 88, 93, 11]])
    features = mx.random.normal((1, 2, SIZE), key=mx.random.key(1))

    def embeddings():
        given = {"cached_image_features": features}
        return model.get_input_embeddings(tokens, mx.zeros((1, 3, 8, 8)), **given).inputs_embeds

    right = embeddings()
    with zoo_hooks.disabled(PATCH):
        before = embeddings()
    rest, text = [1, 2, 4, 5], [0, 3, 6]
    assert mx.array_equal(right[:, rest], before[:, rest])
    assert mx.array_equal(right[:, 1:3], features)
    assert mx.array_equal(right[:, text], before[:, text] * SIZE**0.5)


def test_the_rest_of_what_is_made_is_as_it_was(model):
    """Inputs of single layers, embeddings that a caller gives, the model; arguments by keyword."""
    tokens, before = _tiny.prompt(LENGTH), dict(vars(model.language_model.model))
    right = model.get_input_embeddings(input_ids=tokens, pixel_values=None)
    with zoo_hooks.disabled(PATCH):
        plain = model.get_input_embeddings(tokens)
    assert mx.array_equal(right.per_layer_inputs, plain.per_layer_inputs)
    assert vars(model.language_model.model) == before
    assert type(model.language_model.model.embed_tokens) is nn.Embedding
    given = model.language_model(
        None, inputs_embeds=right.inputs_embeds, per_layer_inputs=plain.per_layer_inputs
    )
    assert mx.array_equal(given.logits, logits(model, tokens))


def test_a_quantised_table_and_a_subclass(model):
    """Both are scaled once."""
    model, tokens = copy.deepcopy(model), _tiny.prompt(LENGTH)
    nn.quantize(
        model.language_model, group_size=32, bits=8, class_predicate=lambda _, part: quantisable(part)
    )

    class Model(type(model)):
        def get_input_embeddings(self, *args, **kwargs):
            return super().get_input_embeddings(*args, **kwargs)

    expected = model.language_model(tokens).logits
    assert largest(logits(model, tokens), expected) < 1e-5
    model.__class__ = Model
    assert largest(logits(model, tokens), expected) < 1e-5


def quantisable(part):
    return hasattr(part, "to_quantized") and part.weight.shape[-1] % 32 == 0


def flat(tree):
    from mlx.utils import tree_flatten

    return tree_flatten(tree)


def embeddings_of(scale):
    def get_input_embeddings(self, input_ids=None, pixel_values=None):
        return SimpleNamespace(inputs_embeds=self.language_model.model.embed_tokens(input_ids) * scale)

    return get_input_embeddings


def backbone_of(scale):
    def call(self, inputs=None, inputs_embeds=None):
        self.project_per_layer_inputs(inputs_embeds * scale, None)

    return call


@pytest.mark.parametrize(
    ("in_model", "in_backbone", "verdict"),
    [(1, 1, "AFFECTED"), (2, 1, "FIXED"), (1, 2, "FIXED"), (2, 2, "UNKNOWN")],
)
def test_upstream_may_scale_in_either_place(monkeypatch, in_model, in_backbone, verdict):
    """Before the embeddings are handed on, or in what they are handed to; twice is another bug."""
    language = SimpleNamespace(Gemma3Model=type("Gemma3Model", (), {"__call__": backbone_of(in_backbone)}))
    monkeypatch.setitem(sys.modules, "language_of_a_test", language)
    kinds = {
        "Model": type("Model", (), {"get_input_embeddings": embeddings_of(in_model)}),
        "LanguageModel": type("LanguageModel", (), {"__module__": "language_of_a_test"}),
    }
    assert patch.probe(SimpleNamespace(**kinds)) is Verdict[verdict]
    assert patch.probe(SimpleNamespace()) is Verdict.UNKNOWN
