"""LoRA on MoE models adapts other modules than the ones named in target_modules.

Symptom
-------
``target_modules=["model.layers.0.mlp.down_proj"]`` names a dense MLP of DeepSeek-V3. peft puts LoRA on the
routed experts of all layers instead, and none on the named module. The same happens for a shared expert's
``shared_experts.down_proj``. A bare ``down_proj`` leaves out the dense and shared MLPs.

From peft 0.20 on, a pattern for ``q_proj`` of one layer matches ``q_proj`` of all layers, and
``all-linear`` leaves out the MLPs that are linear layers. A part of a fused projection, such as
``shared_experts.gate_proj``, raises
``Cannot convert PEFT target(s) gate_proj without also targeting up_proj``.

Cause
-----
transformers 5 stores the routed experts as parameters, so peft converts targets with the old module names
into target parameters. It compares only the last part of a name, even if the model has a module of that
name. It replaces a pattern by the last parts of the names that it matches.

Repair
------
A target that names a module of the model stays a target, as in
https://github.com/huggingface/peft/pull/3715. A bare name also targets the experts. A pattern is replaced
by the full names of what it matches. Targets inside the routed experts and the router are converted as
before, for all layers.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

CONVERT = "convert_peft_config_for_transformers"
PATTERN, NAME = "qwen2_moe", "down_proj"
NAMED = "model.layers.0.mlp.down_proj"


def probe(module: ModuleType) -> Verdict:
    # Not by its caller: that would fix the table of conversions before others have added theirs.
    turn = module._convert_peft_config_moe  # noqa: SLF001
    kinds = module._MODEL_TO_CONVERSION_PATTERN  # noqa: SLF001
    kind = next((kind for kind, pattern in kinds.items() if pattern == PATTERN), None)
    if kind is None:  # as before transformers 5: the targets of no model are turned
        return Verdict.FIXED

    from torch import nn

    model = nn.Module()
    model.mlp = nn.Module()
    model.mlp.down_proj = nn.Linear(1, 1, device="meta")
    model.config = SimpleNamespace(model_type=kind)
    config = SimpleNamespace(
        target_modules={f"mlp.{NAME}"},
        target_parameters=None,
        rank_pattern={},
        alpha_pattern={},
        r=1,
        lora_alpha=1,
    )
    turn(config, kind if "model_type" in inspect.signature(turn).parameters else model)
    if f"mlp.{NAME}" in config.target_modules:
        return Verdict.FIXED
    return Verdict.AFFECTED if NAME in config.target_parameters else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    kinds, tables = module._MODEL_TO_CONVERSION_PATTERN, module._MOE_TARGET_MODULE_MAPPING  # noqa: SLF001
    patterns = hasattr(module, "_resolve_string_target_modules")
    changes.wrap(module, CONVERT, functools.partial(_by_whole_names, kinds, tables, patterns))


def _by_whole_names(
    kinds: dict[str | None, str],
    tables: dict[str | None, dict[str, str]],
    patterns: bool,  # noqa: FBT001
    original: Callable[..., Any],
) -> Callable[..., Any]:
    from peft import PeftConfig
    from torch.nn import Module

    def convert(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        config: Any = next((one for one in given if isinstance(one, PeftConfig)), None)
        model = next((one for one in given if isinstance(one, Module)), None)
        kind = getattr(getattr(model, "config", None), "model_type", None)
        table = tables.get(kinds.get(kind)) if config and config.peft_type == "LORA" else None
        names = _names(config, model, table, patterns=patterns) if table else set()
        if not table or not names:
            return original(*args, **kwargs)
        kept = _modules(names, model, table)
        turned = copy.copy(config)  # the user's config stays as it is where this raises
        turned.target_modules = {name for name in names if name not in kept or "." not in name}
        instead = {id(config): turned}
        original(
            *(instead.get(id(one), one) for one in args),
            **{name: instead.get(id(one), one) for name, one in kwargs.items()},
        )
        turned.target_modules = {*turned.target_modules, *kept}
        vars(config).update(vars(turned))
        return None

    return convert


def _names(config: Any, model: Any, table: dict[str, str], *, patterns: bool) -> set[str]:
    """What the targets name; of a pattern the whole names of what it matches, experts as they were called."""
    from peft.tuners import tuners_utils

    targets = config.target_modules or ()
    if not isinstance(targets, str):
        return set(targets)
    if not patterns:  # peft before 0.20 turns none
        return set()
    if targets.lower() == "all-linear":
        linear = tuners_utils._maybe_include_all_linear_layers(copy.copy(config), model)  # noqa: SLF001
        return {*linear.target_modules, *table}
    names = [name for name, _ in model.named_modules()]
    for name, _ in model.named_parameters():
        container, _, leaf = name.rpartition(".")
        names += [f"{container}.{old}" for old, new in table.items() if new == leaf]
    return {name for name in names if tuners_utils.check_target_module_exists(config, name)}


def _modules(names: set[str], model: Any, table: dict[str, str]) -> set[str]:
    """Those of the names that modules of the model have, of which peft makes parameters of others."""
    turned = {old for old, new in table.items() if not new.startswith(f"{old}.")}  # not the router's weight
    ends = set()
    for path, _ in model.named_modules():
        parts = path.split(".")
        if parts[-1] in turned:
            ends |= {".".join(parts[n:]) for n in range(len(parts))}
    return names & ends


def canary() -> Figure:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    config = transformers.DeepseekV3Config(
        vocab_size=16, hidden_size=8, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=2,
        first_k_dense_replace=1, num_attention_heads=2, num_key_value_heads=2, n_routed_experts=2,
        num_experts_per_tok=1, n_group=1, topk_group=1, q_lora_rank=4, kv_lora_rank=4, qk_nope_head_dim=4,
        qk_rope_head_dim=4, v_head_dim=4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(
            transformers.DeepseekV3ForCausalLM(config), LoraConfig(r=2, target_modules=[NAMED])
        )
    adapted = [name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name]
    where = ", ".join(name.removeprefix("base_model.model.") for name in adapted)
    return Figure(where, healthy=where == NAMED)


PATCH = Patch(
    module=__name__,
    title="LoRA on MoE models adapts other modules than the ones named in target_modules",
    severity="silent wrong result",
    symptoms=("Cannot convert PEFT target(s)*because they are fused into",),
    targets=("peft.utils.transformers_weight_conversion",),
    affects=("peft>=0.19.0", "transformers>=5.0.0"),
    links=(
        "https://github.com/huggingface/peft/issues/3711",
        "https://github.com/huggingface/peft/pull/3715",
    ),
    measures=f"where LoRA is put when the target is {NAMED} (expected: there)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
