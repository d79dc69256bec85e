"""LoRA stands where its targets say, in models that have MLPs beside their experts."""

from __future__ import annotations

import contextlib
import importlib

import pytest
import torch
import transformers
from conftest import recorded
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

import zoo_hooks
from zoo_hooks.changes import Changes
from zoo_hooks.patches.peft import moe_target_names

PATCH = "peft/moe-target-names"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="this peft turns no targets")
SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 1,
}  # fmt: skip
DEEPSEEK = {
    "num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 2, "n_group": 1, "topk_group": 1,
    "q_lora_rank": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
}  # fmt: skip
QWEN = {"num_hidden_layers": 3, "head_dim": 8, "num_experts": 2, "mlp_only_layers": [0]}
TEXT = torch.arange(3, 11)[None]
EXPERTS = ["1.mlp.experts", "1.mlp.experts.base_layer"]  # peft names the second parameter so
DENSE = [f"0.mlp.{name}_proj" for name in ("down", "gate", "up")]
SHARED = [f"1.mlp.shared_experts.{name}_proj" for name in ("down", "gate", "up")]
ATTENTION = [f"{n}.self_attn.{name}_proj" for n in range(3) for name in "koqv"]


def turning():
    return importlib.import_module(moe_target_names.PATCH.targets[0])


def deepseek():
    torch.manual_seed(0)
    return transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**SIZES, **DEEPSEEK)).eval()


def qwen():
    torch.manual_seed(0)
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES, **QWEN)).eval()


def adapted(model, targets, kind=LoraConfig, part="lora_A", **more):
    """The modules that an adapter is put on, with its config."""
    more = more or {"r": 2}
    model = get_peft_model(model, kind(target_modules=targets, **more))
    names = [name.partition(f".{part}")[0] for name, _ in model.named_parameters() if part in name]
    return sorted(name.removeprefix("base_model.model.model.layers.") for name in names), model


MEANT = [
    (deepseek, ["model.layers.0.mlp.down_proj"], DENSE[:1]),
    (deepseek, ["shared_experts.down_proj"], SHARED[:1]),
    (deepseek, ["model.layers.1.mlp.shared_experts.gate_proj"], SHARED[1:2]),
    (deepseek, ["gate_proj", "up_proj", "down_proj"], [*DENSE, *EXPERTS, *SHARED]),
    (qwen, ["model.layers.0.mlp.down_proj"], DENSE[:1]),
    (qwen, ["down_proj"], [*DENSE[:1], "1.mlp.experts", "2.mlp.experts"]),
]
PATTERNS = [
    (deepseek, r".*shared_experts\.\w+_proj", SHARED),
    (qwen, r"model\.layers\.1\.self_attn\.q_proj", ["1.self_attn.q_proj"]),
    (qwen, r"model\.layers\.0\.mlp\.down_proj", DENSE[:1]),
    (qwen, "all-linear", [
        *DENSE, *EXPERTS, "1.mlp.gate", *(name.replace("1", "2") for name in [*EXPERTS, "1.mlp.gate"]),
        *ATTENTION,
    ]),
]  # fmt: skip
AS_BEFORE = [
    (deepseek, ["experts.down_proj"]),
    (deepseek, ["experts.0.down_proj", "o_proj"]),
    (deepseek, ["model.layers.1.mlp.gate"]),
    (qwen, ["q_proj", "v_proj"]),
    (qwen, ("gate",)),
]


@pytest.mark.parametrize(("make", "targets", "meant"), MEANT)
def test_a_target_that_a_module_has_for_a_name_is_that_module(make, targets, meant):
    """And a bare name that of experts too. Without the repair it is another one, or an error."""
    assert adapted(make(), targets)[0] == sorted(meant)
    with zoo_hooks.disabled(PATCH):
        if any("gate_proj" in target for target in targets) and len(targets) == 1:
            with pytest.raises(ValueError, match=r"Cannot convert PEFT target.*fused into gate_up_proj"):
                adapted(make(), targets)
        else:
            assert adapted(make(), targets)[0] != sorted(meant)


@pytest.mark.parametrize(("make", "pattern", "meant"), PATTERNS)
def test_a_pattern_reaches_what_it_matches(make, pattern, meant):
    """Not modules of other layers that end alike. peft before 0.20 takes no pattern for these models."""
    if hasattr(turning(), "_resolve_string_target_modules"):
        assert adapted(make(), pattern)[0] == sorted(meant)
        with zoo_hooks.disabled(PATCH):
            assert adapted(make(), pattern)[0] != sorted(meant)


@pytest.mark.parametrize(("make", "targets"), AS_BEFORE)
def test_targets_inside_the_experts_and_the_router_are_turned_as_before(make, targets):
    """The same modules and config with the repair and without."""
    names, model = adapted(make(), targets)
    with zoo_hooks.disabled(PATCH):
        others, other = adapted(make(), targets)
    assert names == others
    assert names
    assert model.peft_config["default"].to_dict() == other.peft_config["default"].to_dict()


def test_other_models_and_methods_are_not_looked_at():
    """A Llama keeps its list; IA3 has no experts to go to and keeps what it was given."""
    sizes = {**SIZES, "num_hidden_layers": 1}
    sizes = {name: size for name, size in sizes.items() if name in transformers.LlamaConfig().to_dict()}
    _, model = adapted(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)), ["down_proj"])
    assert model.peft_config["default"].target_modules == {"down_proj"}
    targets = {"target_modules": ["mlp.down_proj"], "feedforward_modules": ["mlp.down_proj"]}
    names, model = adapted(deepseek(), targets.pop("target_modules"), IA3Config, "ia3_l", **targets)
    assert names == ["0.mlp.down_proj"]
    assert model.peft_config["default"].target_modules == {"mlp.down_proj"}


def test_a_part_of_the_fused_experts_is_refused_as_before():
    """With the config as the user gave it."""
    config = LoraConfig(r=2, target_modules=["up_proj", "model.layers.0.mlp.down_proj"])
    with pytest.raises(ValueError, match="Cannot convert PEFT target"):
        get_peft_model(deepseek(), config)
    assert config.target_modules == {"up_proj", "model.layers.0.mlp.down_proj"}


@pytest.mark.parametrize("targets", [["shared_experts.down_proj", "q_b_proj"], ["gate_proj", "up_proj"]])
def test_what_is_saved_is_loaded_again(targets, tmp_path):
    """As an adapter of its own, and as a second one of a model, where peft can have two."""
    _, model = adapted(deepseek(), targets, r=2, init_lora_weights=False)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(TEXT).logits
        assert not expected.allclose(deepseek()(TEXT).logits, atol=1e-3)
        loaded = PeftModel.from_pretrained(deepseek(), tmp_path)
        assert loaded(TEXT).logits.equal(expected)
        if not loaded.peft_config["default"].target_parameters:
            loaded.load_adapter(tmp_path, "second")
            loaded.set_adapter("second")
            assert loaded(TEXT).logits.equal(expected)


def test_all_that_is_named_is_trained():
    """Each adapter has a gradient, and no other module one."""
    names, model = adapted(deepseek(), ["model.layers.0.mlp.down_proj", "shared_experts.down_proj"])
    model(TEXT, labels=TEXT).loss.backward()
    learnt = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert len(learnt) == 2 * len(names) == 4


def keep(original):
    """Another tool's repair: it sets aside what modules have for a name."""

    def convert(config, model, *args, **kwargs):
        names = [name for name, _ in model.named_modules()]
        kept = {one for one in config.target_modules if "." in one and any(n.endswith(one) for n in names)}
        config.target_modules = set(config.target_modules) - kept
        original(config, model, *args, **kwargs)
        config.target_modules = set(config.target_modules) | kept

    return convert


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tools_repair_before_or_after_does_no_harm(first, monkeypatch):
    """Either way LoRA is where it is meant to be."""
    module, name, changes = turning(), moe_target_names.CONVERT, Changes()
    with (
        zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext(),
        monkeypatch.context() as own,
    ):
        own.setattr(module, name, keep(getattr(module, name)))
        if first == "theirs":
            moe_target_names.repair(module, changes)
        for make, targets, meant in MEANT[:3]:
            assert adapted(make(), targets)[0] == sorted(meant)
        changes.undo()
