"""On transformers 5.0, peft cannot load adapters of models whose checkpoints are converted.

Symptom
-------
Loading any adapter of Mixtral, Qwen2-MoE or another model for which transformers registers a conversion
raises ``TypeError: WeightRenaming.convert() got an unexpected keyword argument 'loading_info'``.

Cause
-----
peft calls ``convert`` as transformers defines it from 5.1.0 on: with ``loading_info``, and the tensors
alone as its result. In transformers 5.0.0 ``convert`` has no such argument, and returns the tensors and the
errors as a pair.

Repair
------
``convert`` of ``WeightRenaming`` and ``WeightConverter`` accepts the argument, and returns the tensors
alone to callers that pass it. transformers' own loading does not pass it, and gets the pair as before. peft
passes None, and errors are raised with None as well as without the argument.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

TARGET = "peft.utils.transformers_weight_conversion"
SYMPTOM = "convert() got an unexpected keyword argument 'loading_info'"


def probe(module: ModuleType) -> Verdict:
    tensors = {"probe": ["tensor"]}
    with symptom(TypeError, SYMPTOM):
        right = _renaming(module).convert("probe", loading_info=None) == tensors
        return Verdict.FIXED if right else Verdict.UNKNOWN
    with symptom(TypeError, SYMPTOM):  # peft's side may have been repaired instead
        return Verdict.FIXED if _converted(module, [1.0]) == [1.0] else Verdict.UNKNOWN
    pair = _renaming(module).convert("probe")  # what the repair takes apart
    return Verdict.AFFECTED if isinstance(pair, tuple) and pair[0] == tensors else Verdict.UNKNOWN


def _renaming(module: ModuleType) -> Any:
    renaming = module.WeightRenaming("probe", "probe")
    renaming.add_tensor("probe", "probe", "probe", "tensor")
    return renaming


def _converted(module: ModuleType, weights: list[float]) -> list[float]:
    """What peft makes of an adapter's weights for a module that Mixtral has no conversion for."""
    import torch
    from peft import LoraConfig

    model: Any = torch.nn.Module()
    model.config = SimpleNamespace(model_type="mixtral")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    given = {key: torch.tensor(weights)}
    convert = module.convert_peft_adapter_state_dict_for_transformers
    values: list[float] = convert(model, LoraConfig(), given, "default")[key].tolist()
    return values


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def convert(self: Any, layer_name: str, *args: Any, **kwargs: Any) -> Any:
            if "loading_info" not in kwargs:
                return original(self, layer_name, *args, **kwargs)
            del kwargs["loading_info"]
            tensors, _errors = original(self, layer_name, *args, **kwargs)
            return tensors

        return convert

    for kind in (module.WeightRenaming, module.WeightConverter):
        changes.wrap(kind, "convert", make)


def canary() -> Figure:
    from peft.utils import transformers_weight_conversion

    given = [1.0, 2.0, 3.0]
    values = _converted(transformers_weight_conversion, given)
    return Figure(str(values), healthy=values == given)


PATCH = Patch(
    module=__name__,
    title="Adapters of MoE models cannot be loaded on transformers 5.0: no argument loading_info",
    severity="crash",
    symptoms=(".convert() got an unexpected keyword argument 'loading_info'",),
    targets=(TARGET,),
    affects=("peft>=0.19.0", "transformers>=5.0.0,<5.1.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.19.1/src/peft/utils/transformers_weight_conversion.py#L550",
        "https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/core_model_loading.py#L685",
    ),
    measures="weights of an adapter of Mixtral's attention after loading (expected: [1.0, 2.0, 3.0])",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=("transformers.core_model_loading",),
)
