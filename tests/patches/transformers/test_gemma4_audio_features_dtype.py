"""Gemma-4 merges audio features of any dtype; where dtypes agree, nothing changes."""

from __future__ import annotations

import copy
import inspect
import pickle
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import recorded

pytest.importorskip("transformers.models.gemma4")

from transformers.models.gemma4 import modeling_gemma4 as gemma4

import zoo_hooks
import zoo_hooks.changes
from zoo_hooks.patches.transformers import _tiny, gemma4_audio_features_dtype

PATCH = "transformers/gemma4-audio-features-dtype"
KINDS = [torch.float32, torch.float16, torch.bfloat16]


def applied() -> bool:
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def model(text=torch.float32, audio=torch.float32):
    made = _tiny.multimodal_model()
    made.model.language_model.to(text)
    made.lm_head.to(text)
    made.model.audio_tower.to(audio)
    made.model.embed_audio.to(audio)
    return made


def logits(made, **more):
    with torch.no_grad():
        return made(**{**_tiny.audio_inputs(), **more}).logits.float()


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize("audio", KINDS)
def test_every_mixture_of_dtypes_agrees_with_float32(text, audio):
    """Relative error of the logits: below 0.01 with float16, 0.06 with bfloat16."""
    expected = logits(model())
    error = (logits(model(text, audio)) - expected).norm() / expected.norm()
    assert error < (0.06 if torch.bfloat16 in (text, audio) else 0.01)


def test_without_the_repair_mixtures_raise_on_an_affected_release():
    """The symptom in its own words; and no exception where upstream has mended it."""
    made = model(audio=torch.float16)
    affected = applied()
    with zoo_hooks.disabled(PATCH):
        if affected:
            with pytest.raises(RuntimeError, match="masked_scatter"):
                logits(made)
        else:
            logits(made)


def test_under_bfloat16_autocast_it_agrees_with_float32():
    """What ``Trainer(bf16=True)`` does: float32 embeddings, bfloat16 features."""
    made = model()
    expected = logits(made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (logits(made) - expected).norm() / expected.norm() < 0.06


@pytest.mark.parametrize("dtype", KINDS)
def test_where_dtypes_agree_the_logits_are_bit_identical(dtype):
    """And models are called with text alone as before."""
    made = model().to(dtype)
    seen = logits(made), made(_tiny.prompt()).logits
    with zoo_hooks.disabled(PATCH):
        expected = logits(made), made(_tiny.prompt()).logits
    assert all(map(torch.equal, seen, expected))


def test_embeddings_that_the_caller_gives_decide_the_dtype():
    """Float32 embeddings and a float16 table; and float16 embeddings and features, as upstream runs."""
    given = _tiny.audio_inputs()
    ids = given.pop("input_ids")
    made = model().model
    embeds = made.get_input_embeddings()(ids.where(ids != 72, 0)).detach()
    audio_mask = ids == 72

    def places(self, input_ids=None, inputs_embeds=None):
        return audio_mask & False, audio_mask & False, audio_mask

    made.get_placeholder_mask = types.MethodType(places, made)
    made.config.text_config.hidden_size_per_layer_input = 0
    expected = run_embeds(made, embeds, given)
    made.audio_tower.half()
    made.embed_audio.half()
    made.get_input_embeddings().half()
    seen = run_embeds(made, embeds, given)
    assert (seen - expected).norm() / expected.norm() < 0.01


def run_embeds(made, embeds, given):
    taken = {}

    def language_model(*args, inputs_embeds, **kwargs):
        taken["embeds"] = inputs_embeds
        raise StopIteration

    kept = made.language_model.forward
    made.language_model.forward = language_model
    with torch.no_grad(), pytest.raises(StopIteration):
        made(inputs_embeds=embeds, **given)
    made.language_model.forward = kept
    return taken["embeds"].float()


def test_arguments_given_by_position_are_found():
    """``input_features`` by position, as the signature has it, gives what the keyword gives."""
    made = model(audio=torch.float16).model
    given = _tiny.audio_inputs()
    names = list(inspect.signature(made.forward).parameters)
    positional = [given.get(name) for name in names[: names.index("input_features_mask") + 1]]
    with torch.no_grad():
        assert torch.equal(made(*positional)[0], made(**given)[0])


def test_callers_of_get_audio_features_get_the_dtype_of_the_tower():
    """Only the merge inside forward asks for another."""
    made = model(audio=torch.float16)
    given = _tiny.audio_inputs()
    with torch.no_grad():
        output = made.model.get_audio_features(given["input_features"], given["input_features_mask"])
        assert output.pooler_output.dtype is torch.float16
        if recorded(PATCH) == "AFFECTED":  # later ones ask for what is heard in another way
            hidden = made.model(**given).audio_hidden_states
            assert hidden.shape[-1] == output.pooler_output.shape[-1]


def test_a_subclass_gets_the_arguments_that_upstream_gives():
    """One that keeps what it has heard: tensors by position and a keyword, and the same logits each time."""
    given, seen, kept = _tiny.audio_inputs(), [], {}

    class Keeping(gemma4.Gemma4Model):
        def get_audio_features(self, *args, **kwargs):
            seen.append((args, kwargs))
            if not kept:
                kept["audio"] = super().get_audio_features(*args, **kwargs)
            return kept["audio"]

    made = model(audio=torch.float16)
    expected = logits(made)
    made.model.__class__ = Keeping
    for _ in range(2):
        assert torch.equal(logits(made), expected)
    for (features, mask), keywords in seen:
        assert features is given["input_features"] or torch.equal(features, given["input_features"])
        assert (type(features), type(mask), keywords) == (torch.Tensor, torch.Tensor, {"return_dict": True})


def test_a_wrapper_on_the_instance_gets_the_arguments_that_upstream_gives():
    """As tools put one there; it hands on features of another dtype, and they are merged."""
    made = model(audio=torch.float16)
    expected = logits(made)
    inner = made.model.get_audio_features
    made.model.get_audio_features = lambda features, mask, **more: inner(features.double(), mask, **more)
    assert torch.allclose(logits(made), expected, atol=1e-3)


def test_an_override_may_ask_for_a_tuple():
    """Which is not of the dtype that is merged, so the release's own forward decides what becomes of it."""

    class Own(gemma4.Gemma4Model):
        def get_audio_features(self, *args, **kwargs):
            seen.append(super().get_audio_features(*args, **{**kwargs, "return_dict": False}))
            return super().get_audio_features(*args, **kwargs)

    seen, made = [], model(audio=torch.float16)
    expected = logits(made)
    made.model.__class__ = Own
    assert torch.equal(logits(made), expected)
    assert isinstance(seen[0], tuple)


def test_while_a_forward_runs_other_threads_get_the_dtype_of_the_tower():
    """The thread of the forward gets that of the embeddings, at the same moment."""
    made, seen = model(audio=torch.float16), []
    expected, inner = logits(made), made.model.get_audio_features

    def heard(*args, **kwargs):
        with ThreadPoolExecutor(1) as other:
            outputs = [other.submit(inner, *args, **kwargs).result(), inner(*args, **kwargs)]
        seen.extend(output.pooler_output.dtype for output in outputs)
        return outputs[-1]

    made.model.get_audio_features = heard
    assert torch.equal(logits(made), expected)
    assert seen == [torch.float16, torch.float32 if applied() else torch.float16]


def test_a_forward_that_raises_leaves_nothing_behind():
    """What asks for features after it gets the dtype of the tower."""
    made, given = model(audio=torch.float16), _tiny.audio_inputs()

    def language_model(*args, **kwargs):
        raise StopIteration

    made.model.language_model.forward = language_model
    with pytest.raises(StopIteration):
        logits(made)
    output = made.model.get_audio_features(given["input_features"], given["input_features_mask"])
    assert output.pooler_output.dtype is torch.float16


def test_gradients_reach_the_audio_tower():
    """In mixed dtypes they are finite and point where those of float32 do."""
    grads = []
    for dtype in (torch.float32, torch.float16):
        made = model(audio=dtype)
        made(**_tiny.audio_inputs()).logits.square().mean().backward()
        grads.append(made.model.embed_audio.embedding_projection.weight.grad.flatten().double())
    assert torch.cosine_similarity(*grads, dim=0) > 0.999


def test_the_model_compiles_and_is_copied_and_pickled():
    """Text alone compiles to one graph; with audio compiled code, copies and pickles give the same."""
    made = model(audio=torch.float16)
    expected = logits(made)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(logits(other), expected)
    torch._dynamo.reset()
    with torch.no_grad():
        text = torch.compile(made.model, fullgraph=True, backend="eager")(_tiny.prompt())[0]
        assert torch.allclose(text, made.model(_tiny.prompt())[0], atol=1e-5)
        torch._dynamo.reset()
        compiled = torch.compile(made.model, backend="eager")(**_tiny.audio_inputs())[0]
        assert torch.allclose(compiled, made.model(**_tiny.audio_inputs())[0], atol=1e-5)


@pytest.mark.parametrize("name", ["forward", "get_audio_features"])
def test_the_methods_look_as_they_did(name):
    """Plain functions with upstream's signature; on a release that is not affected upstream's own."""
    seen = getattr(gemma4.Gemma4Model, name)
    assert isinstance(seen, types.FunctionType)
    with zoo_hooks.disabled(PATCH):
        plain = getattr(gemma4.Gemma4Model, name)
        assert inspect.signature(seen) == inspect.signature(plain)
    assert (seen is plain) != applied()


def test_the_probe_leaves_unknown_code_alone():
    """A forward that merges in another way is UNKNOWN."""

    class Other:
        def forward(self, input_features):
            return input_features

    assert gemma4_audio_features_dtype.probe(types.SimpleNamespace(Gemma4Model=Other)).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: an error without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]).startswith("RuntimeError") == applied()
    assert row["with"] < 0.01
