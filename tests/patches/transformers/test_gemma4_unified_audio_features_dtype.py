"""Gemma-4 unified merges audio features of any dtype; where dtypes agree, nothing changes."""

from __future__ import annotations

import copy
import inspect
import pickle
import types

import pytest
import torch

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit, _tiny
from zoo_hooks.patches.transformers.gemma4_unified_audio_features_dtype import PATCH as RECORD

target = pytest.importorskip(RECORD.targets[0], reason="Gemma-4 unified came with 5.10.0")
PATCH = RECORD.id
KINDS = [torch.float32, torch.float16, torch.bfloat16]
every_kind = pytest.mark.parametrize("text", KINDS)


def applied():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def model(text=torch.float32, audio=torch.float32):
    made = _four_bit.unified_model().to(text)
    made.model.embed_audio.to(audio)
    return made


def logits(made):
    with torch.no_grad():
        return made(**_four_bit.unified_audio_inputs()).logits.float()


def error(seen):
    expected = logits(model())
    return (seen - expected).norm() / expected.norm()


@every_kind
@pytest.mark.parametrize("audio", KINDS)
def test_every_mixture_of_dtypes_agrees_with_float32(text, audio):
    """Relative error of the logits: below 0.01 with float16, 0.06 with bfloat16."""
    assert error(logits(model(text, audio))) < (0.06 if torch.bfloat16 in (text, audio) else 0.01)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_under_autocast_it_agrees_with_float32(dtype, most):
    """What a Trainer with fp16 or bf16 does: float32 embeddings, features of half the width."""
    made = model()
    with torch.autocast("cpu", dtype=dtype):
        assert error(logits(made)) < most
        if applied():
            with zoo_hooks.disabled(PATCH), pytest.raises(RuntimeError, match="masked_scatter"):
                logits(made)


@every_kind
def test_where_dtypes_agree_the_logits_are_bit_identical(text):
    """With audio, with an image, and with text alone."""
    made = model(text, text)

    def seen():
        image = {**_four_bit.unified_inputs()}
        image["pixel_values"] = image["pixel_values"].to(text)
        with torch.no_grad():
            return logits(made), made(**image).logits, made(_tiny.prompt()).logits

    repaired = seen()
    with zoo_hooks.disabled(PATCH):
        assert all(map(torch.equal, repaired, seen()))


def test_arguments_given_by_position_are_found():
    """``input_features`` by position, as the signature has it, gives what the keyword gives."""
    made, given = model(audio=torch.float16).model, _four_bit.unified_audio_inputs()
    names = list(inspect.signature(made.forward).parameters)
    positional = [given.get(name) for name in names[: names.index("input_features_mask") + 1]]
    with torch.no_grad():
        assert torch.equal(made(*positional)[0], made(**given)[0])


def test_callers_of_get_audio_features_get_the_dtype_of_the_embedder():
    """Only the merge inside forward asks for another."""
    given = _four_bit.unified_audio_inputs()
    with torch.no_grad():
        output = model(audio=torch.float16).model.get_audio_features(
            given["input_features"], given["input_features_mask"], return_dict=True
        )
    assert output.pooler_output.dtype is torch.float16


def test_a_subclass_and_a_wrapper_on_the_instance_get_the_arguments_that_upstream_gives():
    """Tensors by position and a keyword; what they hand on is merged."""
    given, seen = _four_bit.unified_audio_inputs(), []

    class Watching(target.Gemma4UnifiedModel):
        def get_audio_features(self, *args, **kwargs):
            seen.append((args, kwargs))
            return super().get_audio_features(*args, **kwargs)

    made = model(audio=torch.float16)
    expected = logits(made)
    made.model.__class__ = Watching
    inner = made.model.get_audio_features
    made.model.get_audio_features = lambda features, mask, **more: inner(features.clone(), mask, **more)
    assert torch.equal(logits(made), expected)
    (((features, mask), keywords),) = seen
    assert (type(features), type(mask), keywords) == (torch.Tensor, torch.Tensor, {"return_dict": True})
    assert torch.equal(features, given["input_features"])


def test_gradients_reach_the_embedder():
    """In mixed dtypes they point where those of float32 do."""
    grads = []
    for dtype in (torch.float32, torch.float16):
        made = model(audio=dtype)
        made(**_four_bit.unified_audio_inputs()).logits.square().mean().backward()
        grads.append(made.model.embed_audio.embedding_projection.weight.grad.flatten().double())
    assert torch.cosine_similarity(*grads, dim=0) > 0.999


def test_the_model_compiles_and_is_copied_and_pickled():
    """Copies, pickles and compiled code give the same."""
    made = model(audio=torch.float16)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(logits(other), logits(made))
    torch._dynamo.reset()
    given = _four_bit.unified_audio_inputs()
    with torch.no_grad():
        compiled = torch.compile(made.model, backend="eager")(**given)[0]
        assert torch.allclose(compiled, made.model(**given)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["forward", "get_audio_features"])
def test_only_an_affected_release_is_touched_and_it_looks_as_it_did(name):
    """Plain functions with upstream's signature."""
    seen = getattr(target.Gemma4UnifiedModel, name)
    assert isinstance(seen, types.FunctionType)
    with zoo_hooks.disabled(PATCH):
        plain = getattr(target.Gemma4UnifiedModel, name)
    assert inspect.signature(seen) == inspect.signature(plain)
    assert (seen is plain) != applied()


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: an error without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]).startswith("RuntimeError") == applied()
    assert row["with"] < 0.01
