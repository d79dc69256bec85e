"""Gradients under checkpointing are right where layers share K/V, and nothing else changes."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import pickle

import pytest
import torch
from conftest import child, exists
from shared_kv import MODELS, backward, cosine, gradients, inputs, model
from torch.utils.checkpoint import checkpoint

import zoo_hooks
from zoo_hooks import catalogue, notices
from zoo_hooks.patches.transformers import _shared_kv, _tiny

PATCH = "transformers/gemma4-reentrant-checkpointing"
LEAST = 0.999999
every_model = pytest.mark.parametrize("name", MODELS)


def applied():
    """Whether the patch is in place; before any model is built its target may not be imported."""
    model()
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def enable(some, how=None, **more):
    """Switch checkpointing on in the way that this release names."""
    switch = getattr(some, "activation_checkpointing_enable", None) or some.gradient_checkpointing_enable
    switch(how, **more)
    return some


def functions(some):
    parts = [part for part in some.modules() if getattr(part, "gradient_checkpointing", False)]
    return {vars(part)["_gradient_checkpointing_func"] for part in parts}


@every_model
@pytest.mark.parametrize("how", [{}, {"use_reentrant": True}, {"use_reentrant": False}, None], ids=str)
def test_every_gradient_is_that_without_checkpointing(name, how):
    """Cosine at least 0.999999 for every parameter, also with torch's own default (no keyword)."""
    expected, calls = backward(MODELS[name]())
    seen, recomputed = backward(enable(MODELS[name](), how))
    assert cosine(expected, seen) >= LEAST
    assert seen.keys() == expected.keys()
    assert recomputed == 2 * calls == 12


@every_model
def test_memory_is_still_checkpointed(name):
    """Each MLP runs once more in the backward. On 5.23.0 a wrapped layer would silently run it once."""
    _, calls = backward(enable(MODELS[name](), {"use_reentrant": True}))
    assert calls == 12


def mistral_large_4():
    """A text model of six layers, of which the last four use the latents of the first two."""
    module = pytest.importorskip("transformers.models.mistral_large4")
    config = module.MistralLarge4TextConfig(
        vocab_size=80, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2,
        kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, head_dim=8, index_topk=8,
        index_head_dim=16, index_n_heads=2, no_rope_layers=[1, 0] * 3, kv_source_layers=[0, 1] * 3,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module.MistralLarge4TextModel(config)


def test_mistral_large_4_is_right_too():
    """Right with the repair, and recomputed; without it the lowest cosine of 81 gradients is 0.69.

    From 5.24.0 on its rotary embeddings learn, so that reentrant checkpointing raises in the backward.
    """

    def step(some):
        calls = []
        for layer in some.layers:
            layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
        some.train()(_tiny.prompt(), use_cache=False).last_hidden_state[..., :16].square().sum().backward()
        return gradients(some), len(calls)

    expected, calls = step(mistral_large_4())
    seen, recomputed = step(enable(mistral_large_4(), {}))
    assert cosine(expected, seen) >= LEAST
    assert recomputed == 2 * calls == 12
    plain = mistral_large_4()
    with zoo_hooks.disabled(PATCH):
        if any(name.endswith("rotary_emb.alpha") for name, _ in plain.named_parameters()):
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                step(enable(plain, {}))
        else:
            assert cosine(expected, step(enable(plain, {}))[0]) == pytest.approx(0.6853, abs=1e-3)


def test_without_the_repair_an_affected_release_has_wrong_gradients(measured):
    """The symptom on a release that is affected: a cosine of 0.71; none on one that is not."""
    row = measured(PATCH)
    assert row["without"] == pytest.approx(0.7105258 if row["status"] == "APPLIED" else 1.0, abs=1e-4)


@every_model
def test_the_symptom_is_back_while_it_is_disabled(name):
    """Inside the block a model whose layers hand on K/V outside the cache has wrong gradients."""
    expected, _ = backward(MODELS[name]())
    outside = "shared_kv_states" in _shared_kv.attention_names(inspect.getmodule(_layer(MODELS[name]())))
    applied()
    with zoo_hooks.disabled(PATCH):
        wrong, _ = backward(enable(MODELS[name](), {}))
    assert (cosine(expected, wrong) < 0.9) == outside
    assert cosine(expected, backward(enable(MODELS[name](), {}))[0]) >= LEAST


def _layer(some):
    return next(type(part) for part in some.modules() if hasattr(part, "is_kv_shared_layer"))


def test_models_that_share_nothing_keep_what_was_chosen():
    """The very function stays: reentrant, and with torch's default."""
    for how in ({}, {"use_reentrant": True, "preserve_rng_state": False}):
        (function,) = functions(enable(_tiny.unshared_model(), how))
        assert function.func is checkpoint
        assert function.keywords == how


def test_other_keywords_and_a_right_choice_are_kept():
    """Only use_reentrant is changed, and a function that says False already stays as it is."""
    (function,) = functions(enable(model(), {"use_reentrant": True, "preserve_rng_state": False}))
    assert function.func is checkpoint
    assert function.keywords == {"use_reentrant": False, "preserve_rng_state": False}
    given = functools.partial(checkpoint, use_reentrant=False)
    some = model()
    some._set_gradient_checkpointing(True, given)  # noqa: FBT003
    assert functions(some) == {given}


def test_functions_come_by_position_by_keyword_or_by_default():
    """Each of these ways leads to a function that is not reentrant."""
    for args, kwargs in [
        ((True, checkpoint), {}),
        ((True,), {"gradient_checkpointing_func": checkpoint}),
        ((), {"enable": True, "gradient_checkpointing_func": checkpoint}),
        ((), {}),
    ]:
        some = model()
        some._set_gradient_checkpointing(*args, **kwargs)
        assert {getattr(f, "keywords", {}).get("use_reentrant") for f in functions(some)} == {False}


def test_a_function_that_does_not_take_the_keyword_is_left_alone():
    """It could not be called otherwise; the docstring says that it is not covered."""

    def own(run, *args):
        return run(*args)

    some = model()
    some._set_gradient_checkpointing(True, own)  # noqa: FBT003
    assert functions(some) == {own}


def test_it_is_told_once_in_a_warning(caplog):
    """One line that names the class, what was changed and why, for two models; none where nothing is."""
    applied()
    notices._said.clear()
    with caplog.at_level(logging.INFO, logger="zoo_hooks"):
        enable(_tiny.unshared_model(), {})
        enable(model(), {"use_reentrant": False})
        assert not caplog.records
        enable(model(), {})
        enable(model(), {})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for part in (type(model()).__name__, "use_reentrant=False", "shares K/V", "wrong gradients"):
        assert part in record.message


def test_importing_a_model_tells_nothing():
    """The probe, which runs again after the repair, is no model that somebody trains."""
    here = [target for target in catalogue.get(PATCH).targets if exists(target)]
    said = child(f"import zoo_hooks\nzoo_hooks.init()\nimport {', '.join(here)}").stderr
    assert "shares K/V" not in said


def test_switching_it_off_again_works():
    """After disabling, an MLP runs once and the gradients are those of a model never switched on."""
    some = enable(model(), {})
    getattr(some, "activation_checkpointing_disable", some.gradient_checkpointing_disable)()
    assert not functions(some)
    assert backward(some)[1] == 6


def test_two_forwards_before_one_backward_are_right():
    """As preference losses do."""

    def both(some):
        other = {**inputs(some), "input_ids": _tiny.prompt() + 9}
        some.train()
        (some(**inputs(some), use_cache=False).loss - 0.5 * some(**other, use_cache=False).loss).backward()
        return gradients(some)

    assert cosine(both(model()), both(enable(model(), {}))) >= LEAST


def test_every_second_layer_and_offloading_are_right_too(monkeypatch):
    """Arguments that 5.23.0 brought; releases before it do not take them."""
    unpinned = torch.autograd.graph.save_on_cpu  # pinning needs an accelerator
    monkeypatch.setattr("transformers.modeling_utils.save_on_cpu", lambda **_: unpinned(), raising=False)
    if "every_n_layers" in inspect.signature(model()._set_gradient_checkpointing).parameters:
        expected, _ = backward(model())
        seen, calls = backward(enable(model(), {}, every_n_layers=2))
        assert cosine(expected, seen) >= LEAST
        assert calls == 9
        assert cosine(expected, backward(enable(model(), {}, offload=True))[0]) >= LEAST


@every_model
@pytest.mark.parametrize("how", [{}, {"use_reentrant": True}], ids=str)
def test_a_model_that_holds_one_that_shares_is_covered(name, how):
    """A class of a user's own, whose text model is a Gemma; switched off and on again too."""
    import transformers

    class Outer(transformers.PreTrainedModel):
        supports_gradient_checkpointing = _supports_sdpa = True
        main_input_name = "given"

        def _can_set_experts_implementation(self):
            return True

        def __init__(self, inner):
            super().__init__(transformers.PretrainedConfig())
            self.inner = inner

    expected, calls = backward(MODELS[name]())
    outer = enable(Outer(MODELS[name]()), how)
    getattr(outer, "activation_checkpointing_disable", outer.gradient_checkpointing_disable)()
    enable(outer, how)
    layers = [part for part in outer.modules() if isinstance(part, _layers(outer))]
    chosen = [part._gradient_checkpointing_func.keywords for part in layers]
    assert chosen == [{"use_reentrant": False}] * 6
    if name == "gemma4-multimodal" and not applied():  # its tower is as the user chose, and learns nothing
        expected = {key: grad for key, grad in expected.items() if "language_model" in key}
    seen, recomputed = backward(outer.inner)
    assert cosine(expected, seen) >= LEAST
    assert recomputed == 2 * calls


def _layers(some):
    """The class of the layers that hold the attention, of which some share."""
    return next(type(part) for part in some.modules()
                if getattr(getattr(part, "self_attn", None), "is_kv_shared_layer", False))  # fmt: skip


def test_a_checkpointed_model_can_be_copied_and_pickled():
    """The copy and the pickle train with the same gradients."""
    some = enable(model(), {}).train()
    expected, calls = backward(some)
    assert calls == 12
    some.zero_grad()
    some._require_grads_hook = None  # upstream's hook on the embeddings is a local function
    some.get_input_embeddings()._forward_hooks.clear()
    for other in (copy.deepcopy(some), pickle.loads(pickle.dumps(some))):
        seen, recomputed = backward(other)
        assert cosine(expected, seen) >= LEAST
        assert recomputed == calls


def test_the_trainer_gets_right_gradients(tmp_path):
    """One step with gradient_checkpointing=True and use_reentrant=True against one without."""
    import transformers

    class Keep(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *_, model, **__):
            self.seen = gradients(model)
            assert bool(functions(model)) == self.checkpointed

    def step(**more):
        keep = Keep()
        keep.checkpointed = "gradient_checkpointing" in more
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=1, use_cpu=True, report_to="none",
            save_strategy="no", max_grad_norm=0, seed=0, **more,
        )  # fmt: skip
        rows = [{"input_ids": _tiny.prompt()[0], "labels": _tiny.prompt()[0]}]
        transformers.Trainer(model(), arguments, train_dataset=rows, callbacks=[keep]).train()
        return keep.seen

    how = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    assert cosine(step(), step(**how)) >= LEAST


def test_peft_prepares_a_model_for_right_gradients():
    """``prepare_model_for_kbit_training`` with its defaults, then LoRA: the way of QLoRA."""
    peft = pytest.importorskip("peft")

    def lora(checkpointing):
        some = model()
        some.is_loaded_in_4bit = True  # what makes peft switch checkpointing on
        some = peft.prepare_model_for_kbit_training(some, use_gradient_checkpointing=checkpointing)
        assert bool(functions(some)) == checkpointing
        torch.manual_seed(1)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
        some = peft.get_peft_model(some, config)
        return backward(some)

    expected, calls = lora(checkpointing=False)
    seen, recomputed = lora(checkpointing=True)
    assert cosine(expected, seen) >= LEAST
    assert recomputed == 2 * calls


def test_classes_look_as_they_did():
    """The signature of what is wrapped is the upstream's, and no part's forward is touched."""
    from transformers import PreTrainedModel

    def forwards(some):
        return {kind: kind.forward for kind in map(type, some.modules())}

    happens = applied()
    wrapped = hasattr(PreTrainedModel._set_gradient_checkpointing, "__wrapped__")
    seen = inspect.signature(PreTrainedModel._set_gradient_checkpointing)
    touched = forwards(model())
    assert wrapped or not happens  # another patch wraps it too, on the releases before those with this bug
    with zoo_hooks.disabled(PATCH):
        assert inspect.signature(PreTrainedModel._set_gradient_checkpointing) == seen
        assert forwards(model()) == touched
