"""peft 0.19.0 cannot load adapters of experts that transformers 5 fuses.

Symptom
-------
Loading an adapter of Mixtral's ``w1``, ``w2`` and ``w3`` that was made with transformers 4 raises
``RuntimeError: Error(s) in loading state_dict``, with a ``size mismatch`` for each weight. If a fused
weight is square, no error is raised and the logits are wrong.

On transformers 5.0 and from 5.6 on, other bugs hide this one until they are repaired
(``peft/weight-conversion-loading-info``, ``peft/weight-converter-arguments``).

Cause
-----
``ParamWrapper`` reads the fused weight of all experts as (experts, in, out), unless the weight is marked as
transposed. In transformers 5, a weight without that mark is (experts, out, in). ``lora_A`` is therefore
created for the output side, while the converted adapter has it on the input side.

Repair
------
If the layer has its sides swapped in this way, zoo-hooks swaps ``lora_A`` and ``lora_B`` of the weights
that peft has just converted for it. Their product stays the same. The layers are not changed, so every
adapter that peft 0.19.0 has saved still loads. peft 0.19.1 swaps the sides of the layers instead, and
cannot load the adapters of fused experts that 0.19.0 has saved.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _tiny

CONVERT = "convert_peft_adapter_state_dict_for_transformers"
PREFIX = "base_model.model."
ROUNDING = 1e-5


def probe(_: ModuleType) -> Verdict:
    from peft.tuners.lora.config import LoraConfig
    from peft.tuners.lora.layer import ParamWrapper

    outputs, inputs = 3, 5
    verdicts = {inputs: Verdict.FIXED, outputs: Verdict.AFFECTED}
    import torch

    experts = torch.nn.Module()
    with torch.device("meta"):
        experts.weight = torch.nn.Parameter(torch.empty(2, outputs, inputs))
        layer = ParamWrapper(experts, "probe", parameter_name="weight", config=LoraConfig(), r=1)
    return verdicts.get(layer.lora_A["probe"].in_features, Verdict.UNKNOWN)


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def convert(model: Any, peft_config: Any, adapter_state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            converted = original(model, peft_config, adapter_state_dict, *args, **kwargs)
            for name, layer in model.named_modules():
                a, b = (f"{PREFIX}{name.removeprefix(PREFIX)}.{side}.weight" for side in ("lora_A", "lora_B"))
                if a in converted and a not in adapter_state_dict and _mirrored(layer):
                    converted[a], converted[b] = _exchanged(converted[a], converted[b], layer.num_experts)
            return converted

        return convert

    changes.wrap(module, CONVERT, make)


def _mirrored(layer: Any) -> bool:
    """Tell whether lora_A of a layer stands on the side of the outputs of a weight of all experts."""
    from peft.tuners.lora.layer import ParamWrapper

    if not isinstance(layer, ParamWrapper) or layer.num_experts == 1:
        return False
    transposed = getattr(layer.get_base_layer(), "is_transposed", False)
    return bool(layer._did_swap_in_out_features == transposed)  # noqa: SLF001 - upstream's own mark


def _exchanged(a: Any, b: Any, experts: int) -> tuple[Any, Any]:
    a = a.reshape(experts, -1, a.shape[1])  # expert, rank, input
    b = b.reshape(b.shape[0], -1, experts)  # output, rank, expert
    return b.permute(2, 1, 0).flatten(0, 1).contiguous(), a.permute(2, 1, 0).flatten(1, 2).contiguous()


def canary() -> Figure:
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    prompt = torch.tensor([[1, 2, 3, 4]])
    adapter: dict[str, torch.Tensor] = {}
    expected = _tiny.mixtral()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        weights = expected.model.layers[0].mlp.experts
        for expert in range(2):
            both = weights.gate_up_proj[expert]
            for name, weight in {"w1": both[:16], "w3": both[16:], "w2": weights.down_proj[expert]}.items():
                a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
                key = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{name}"
                adapter |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
                weight.add_(b @ a)
        config = LoraConfig(r=2, lora_alpha=2, target_modules=["w1", "w2", "w3"])
        model = get_peft_model(_tiny.mixtral(), config)
        set_peft_model_state_dict(model, adapter)
        gap = float((model(prompt).logits - expected(prompt).logits).abs().max())
    return Figure(gap, healthy=gap < ROUNDING)


PATCH = Patch(
    module=__name__,
    title="Adapters of fused experts cannot be loaded: size mismatch",
    severity="silent wrong result",
    symptoms=("size mismatch for *.experts.*lora_",),
    targets=("peft.utils.transformers_weight_conversion",),
    affects=("peft>=0.19.0,<0.19.1", "transformers>=5.0.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.19.0/src/peft/tuners/lora/layer.py#L2202",
        "https://github.com/huggingface/peft/blob/v0.19.1/src/peft/tuners/lora/layer.py#L2202",
    ),
    measures=(
        "difference in logits between an adapter of experts and its product added to the weights "
        "(expected: below 1e-5)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
    requires=("transformers.core_model_loading",),
    behavioural=False,
)
