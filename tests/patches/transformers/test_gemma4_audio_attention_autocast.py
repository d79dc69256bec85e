"""Gemma-4's audio tower runs under float16 autocast; everything else is untouched."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import types

import pytest
import torch

pytest.importorskip("transformers.models.gemma4")

from transformers.models.gemma4 import modeling_gemma4 as gemma4

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_audio_attention_autocast

PATCH = "transformers/gemma4-audio-attention-autocast"
HALF = torch.float16
LIMIT = "gradient_clipping"


def features():
    given = _tiny.audio_inputs()
    mask = given["input_features_mask"].clone()
    mask[:, 24:] = False
    return given["input_features"], mask


def tower(dtype=torch.float32):
    return _tiny.multimodal_model().model.audio_tower.to(dtype)


def run(made, autocast=None):
    with torch.no_grad(), torch.autocast("cpu", dtype=autocast or HALF, enabled=autocast is not None):
        return made(*features()).last_hidden_state


def test_under_float16_autocast_it_agrees_with_float32():
    """With part of the frames masked: a relative error below 0.02."""
    made = tower()
    expected = run(made)
    assert (run(made, HALF).float() - expected).norm() / expected.norm() < 0.02


def test_the_whole_model_runs_and_trains_under_float16_autocast():
    """Logits within 2 % of float32; gradients of the audio tower are finite and point the same way."""
    seen = {}
    for autocast in (False, True):
        model = _tiny.multimodal_model()
        with torch.autocast("cpu", dtype=HALF, enabled=autocast):
            logits = model(**_tiny.audio_inputs()).logits
        logits.float().square().mean().backward()
        grads = [p.grad.flatten() for p in model.model.audio_tower.parameters() if p.grad is not None]
        seen[autocast] = logits.detach().float(), torch.cat(grads)
    assert (seen[True][0] - seen[False][0]).norm() / seen[False][0].norm() < 0.02
    assert seen[True][1].isfinite().all()
    assert torch.cosine_similarity(seen[True][1], seen[False][1], dim=0) > 0.99


def test_masked_frames_stay_masked():
    """What stands in masked frames does not change the others, under autocast as without."""
    made = tower()
    states, mask = features()
    other = states.clone()
    other[:, 24:] += 5
    with torch.no_grad(), torch.autocast("cpu", dtype=HALF):
        first, second = (made(given, mask).last_hidden_state for given in (states, other))
    assert torch.equal(first[:, :5], second[:, :5])


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, None), (HALF, None), (torch.bfloat16, None), (torch.float32, torch.bfloat16)],
)
def test_without_float16_autocast_it_is_bit_identical(dtype, autocast):
    """Plain float32, float16 and bfloat16, and float32 under bfloat16 autocast."""
    made = tower(dtype)
    seen = run(made, autocast)
    with zoo_hooks.disabled(PATCH):
        expected = run(made, autocast)
    assert seen.dtype is expected.dtype
    assert torch.equal(seen, expected)


def test_without_the_repair_it_raises():
    """The symptom, in its own words."""
    with zoo_hooks.disabled(PATCH), pytest.raises(RuntimeError, match="without overflow"):
        run(tower(), HALF)


def test_config_and_layers_are_never_written_to():
    """Config, and the layers' own attributes, are the same objects during and after a forward."""
    made = tower()
    writes = []
    config = type(made.config)

    class Watched(config):
        def __setattr__(self, name, value):
            writes.append(name)
            super().__setattr__(name, value)

    before = made.config.to_dict()
    for module in made.modules():
        if getattr(module, "config", None) is not None:
            module.config.__class__ = Watched
    writes.clear()
    limits = [vars(module).get("gradient_clipping") for module in made.modules()]
    run(made, HALF)
    assert not writes
    assert made.config.to_dict() == before
    assert limits == [vars(module).get("gradient_clipping") for module in made.modules()]
    assert made.config.attention_invalid_logits_value == -1e9
    assert made.layers[0].gradient_clipping == made.config.gradient_clipping == 1e10


def test_the_clamp_is_limited_only_while_float16_autocast_is_on():
    """1e10 outside and under bfloat16; 65504 inside; a value set by the user is kept."""
    layer = tower().layers[0]
    assert layer.gradient_clipping == layer.feed_forward1.gradient_clipping == 1e10
    with torch.autocast("cpu", dtype=HALF):
        assert layer.gradient_clipping == layer.lconv1d.gradient_clipping == 65504
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.gradient_clipping == 1e10
    layer.gradient_clipping = 5.0
    assert copy.deepcopy(layer).gradient_clipping == 5.0


def test_the_limit_of_a_layer_is_an_attribute_like_any_other():
    """Set, read, asked for and deleted, and what is said where there is none, as without the repair."""

    def seen():
        layer = gemma4.Gemma4AudioLayer.__new__(gemma4.Gemma4AudioLayer)
        torch.nn.Module.__init__(layer)
        said = [hasattr(layer, LIMIT), getattr(layer, LIMIT, None)]
        for lacking in (getattr, delattr):
            with pytest.raises(AttributeError, match=LIMIT) as error:
                lacking(layer, LIMIT)
            said.append(str(error.value) if lacking is getattr else "refused")
        layer.gradient_clipping = 3.0
        copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
        said += [vars(one)[LIMIT] for one in (layer, *copies)]
        del layer.gradient_clipping
        said.append(hasattr(layer, LIMIT))
        layer.register_buffer(LIMIT, torch.ones(1))
        layer.gradient_clipping = torch.zeros(1)
        said += [float(layer.gradient_clipping), list(layer.state_dict())]
        with pytest.raises(KeyError, match="already exists"):
            layer.register_parameter(LIMIT, torch.nn.Parameter(torch.ones(1)))
        del layer.gradient_clipping
        return [*said, hasattr(layer, LIMIT)]

    with_repair = seen()
    with zoo_hooks.disabled(PATCH):
        assert with_repair == seen()


def test_a_layer_compiles_without_a_graph_break():
    """``torch.compile(fullgraph=True)`` under float16 autocast and without, and ``torch.export``."""
    made = tower()
    layer = made.layers[0]
    states = torch.linspace(-1, 1, 12 * 32).reshape(1, 12, 32)
    positions = made.rel_pos_enc(states)
    for autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=HALF, enabled=autocast):
            expected = layer(states, None, positions)
            torch._dynamo.reset()
            compiled = torch.compile(layer, fullgraph=True, backend="eager")
            assert torch.equal(compiled(states, None, positions), expected)
    exported = torch.export.export(layer, (states, None, positions)).module()
    assert torch.allclose(exported(states, None, positions), layer(states, None, positions))


def test_towers_can_be_copied_and_pickled():
    """A deep copy and a pickle give the same; a pickle made with the repair loads without it."""
    made = tower()
    expected = run(made, HALF)
    stored = pickle.dumps(made)
    for other in (copy.deepcopy(made), pickle.loads(stored)):
        assert torch.equal(run(other, HALF), expected)
    plain = run(made)
    with zoo_hooks.disabled(PATCH):
        assert torch.equal(run(pickle.loads(stored)), plain)


def test_the_wrapper_looks_like_upstreams():
    """A plain function with the same name and signature."""
    repaired = gemma4.Gemma4AudioAttention._rel_shift
    plain = repaired.__wrapped__
    assert isinstance(repaired, types.FunctionType)
    assert inspect.signature(repaired) == inspect.signature(plain)
    assert repaired.__qualname__ == plain.__qualname__


def test_the_probe_sees_the_bug_only_while_it_is_there():
    """FIXED with the repair, AFFECTED without; no random numbers are used."""
    state = torch.get_rng_state()
    for side, verdict in {contextlib.nullcontext(): "FIXED", zoo_hooks.disabled(PATCH): "AFFECTED"}.items():
        with side:
            assert gemma4_audio_attention_autocast.probe(gemma4).name == verdict
    assert torch.equal(torch.get_rng_state(), state)


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: an error without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]).startswith("RuntimeError")
    assert row["with"] < 0.02
