"""With transformers 5.9 and later, adapters of fused experts are not loaded, and only a warning says so.

Symptom
-------
An adapter of Mixtral's ``w1``, ``w2`` and ``w3`` that was made with transformers 4 is loaded without an
error but has no effect. The warning ``Found missing adapter keys while loading the checkpoint`` lists all
its weights.

This bug shows only if peft 0.19 can create its converters at all (see ``peft/weight-converter-arguments``).

Cause
-----
peft asks for the weight conversions of the whole ``PeftModel``. From 5.9.0 on, transformers restricts the
conversions of an inner model to its path, here ``base_model.model``. The names of the adapter's weights do
not contain this path, so no pattern matches.

Repair
------
zoo-hooks makes peft ask for the conversions of the base model, as peft 0.20 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _tiny

CONVERT = "convert_peft_adapter_state_dict_for_transformers"


def probe(module: ModuleType) -> Verdict:
    if not hasattr(module.WeightRenaming, "scope_prefix"):
        return Verdict.FIXED
    # Not by running it: that would fix the table of conversions before others have added theirs.
    names = set(_names(getattr(module, CONVERT)))
    if "get_base_model" in names:
        return Verdict.FIXED
    return Verdict.AFFECTED if "get_model_conversion_mapping" in names else Verdict.UNKNOWN


def _names(function: Any) -> Iterator[str]:
    """What a function, and each that it wraps, names."""
    while function is not None:
        yield from getattr(getattr(function, "__code__", None), "co_names", ())
        function = getattr(function, "__wrapped__", None)


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def convert(model: Any, *args: Any, **kwargs: Any) -> Any:
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            return original(base, *args, **kwargs)

        return convert

    changes.wrap(module, CONVERT, make)


def canary() -> Figure:
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    shapes = {"w1": (16, 8), "w2": (8, 16), "w3": (16, 8)}
    adapter: dict[str, torch.Tensor] = {}
    for expert in range(2):
        for name, (rows, columns) in shapes.items():
            key = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{name}"
            adapter |= {f"{key}.lora_A.weight": torch.ones(2, columns)}
            adapter |= {f"{key}.lora_B.weight": torch.ones(rows, 2)}
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(_tiny.mixtral(), LoraConfig(r=2, target_modules=list(shapes)))
        set_peft_model_state_dict(model, adapter)
    learnt = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    loaded = sum(bool(weight.any()) for weight in learnt)  # a new adapter has zeros there
    return Figure(f"{loaded} of {len(learnt)}", healthy=loaded == len(learnt))


PATCH = Patch(
    module=__name__,
    title="Adapters of fused experts are not loaded, and only a warning says so",
    severity="silent wrong result",
    symptoms=("Found missing adapter keys while loading the checkpoint*experts",),
    targets=("peft.utils.transformers_weight_conversion",),
    affects=("peft>=0.19.0,<0.20.0", "transformers>=5.9.0"),
    links=(
        "https://github.com/huggingface/transformers/pull/45661",
        "https://github.com/huggingface/peft/blob/v0.20.0/src/peft/utils/transformers_weight_conversion.py#L573",
    ),
    measures="weights of an adapter of Mixtral's experts that are loaded (expected: all)",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=("transformers.core_model_loading",),
)
