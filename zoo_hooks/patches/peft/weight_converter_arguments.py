"""peft 0.19 cannot load adapters of MoE models with transformers 5.6 and later.

Symptom
-------
Loading any adapter of Mixtral, Qwen2-MoE or another model whose experts transformers fuses raises
``TypeError: WeightConverter.__init__() got an unexpected keyword argument 'distributed_operation'``.

Cause
-----
``build_peft_weight_mapping`` creates converters for adapters, modeled on those of the model. It passes
``distributed_operation`` and ``quantization_operation`` to their constructor. From transformers 5.6.0 on,
the constructor has no such parameters. Both are only attributes.

Repair
------
The constructor accepts both arguments and sets the attributes, as peft 0.20 does after the call.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom
from zoo_hooks.patches import _tiny

SYMPTOM = "__init__() got an unexpected keyword argument 'distributed_operation'"
CONVERTERS = 4  # for lora_A and lora_B of gate_up_proj and down_proj


def probe(module: ModuleType) -> Verdict:
    with symptom(TypeError, SYMPTOM):
        operations = [module.MergeModulelist(dim=0), module.Concatenate(dim=1)]
        given = module.WeightConverter(
            ["experts.*.probe.weight"], ["experts.gate_up_proj"], operations=operations
        )
        made = module.build_peft_weight_mapping([given], "probe")
        converters = [one for one in made if isinstance(one, module.WeightConverter)]
        return Verdict.FIXED if converters else Verdict.UNKNOWN
    return Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.WeightConverter, "__init__", _taking_both)


def _taking_both(original: Callable[..., None]) -> Callable[..., None]:
    def init(
        self: Any,
        *args: Any,
        distributed_operation: Any = None,
        quantization_operation: Any = None,
        **kwargs: Any,
    ) -> None:
        original(self, *args, **kwargs)
        if distributed_operation is not None:
            self.distributed_operation = distributed_operation
        if quantization_operation is not None:
            self.quantization_operation = quantization_operation

    return init


def canary() -> Figure:
    from peft.utils import transformers_weight_conversion as module

    made = module.build_peft_weight_mapping(module.get_model_conversion_mapping(_tiny.mixtral()), "default")
    number = sum(isinstance(conversion, module.WeightConverter) for conversion in made)
    return Figure(number, healthy=number == CONVERTERS)


PATCH = Patch(
    module=__name__,
    title="Adapters of MoE models cannot be loaded: no argument distributed_operation",
    severity="crash",
    symptoms=("WeightConverter.__init__() got an unexpected keyword argument 'distributed_operation'",),
    targets=("peft.utils.transformers_weight_conversion",),
    affects=("peft>=0.19.0,<0.20.0", "transformers>=5.6.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.19.1/src/peft/utils/transformers_weight_conversion.py#L268",
        "https://github.com/huggingface/transformers/blob/v5.6.0/src/transformers/core_model_loading.py#L604",
    ),
    measures="converters that peft creates for an adapter of Mixtral's experts (expected: 4)",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=("transformers.core_model_loading",),
)
