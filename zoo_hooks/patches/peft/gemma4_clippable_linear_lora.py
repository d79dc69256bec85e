"""No adapter can target the projections of Gemma-4's vision and audio towers by name.

Symptom
-------
``LoraConfig(target_modules=["q_proj", "v_proj"])`` on a multimodal Gemma-4 raises
``ValueError: Target module Gemma4ClippableLinear(...) is not supported``, because the layers of the
language model and of the towers have the same names. Adapters that were trained elsewhere with these names
do not load. AdaLoRA, LoHa, LoKr, IA3, OFT, VeRA and every other method that adapts linear layers fail in
the same way.

Cause
-----
``Gemma4ClippableLinear`` is not an ``nn.Linear``. It is a wrapper that holds one, ``linear``, and clips its
input and output. No method of peft supports this wrapper.

Repair
------
If such a wrapper is targeted, its ``linear`` gets the adapter, as if ``linear`` had been named. The wrapper
stays and still clips input and output. Patterns for ranks and alphas still match the name that was
targeted.

zoo-hooks leaves alone ``.linear`` as a target, ``all-linear``, and custom modules that a config registers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

TUNERS = "peft.tuners"
LORA = "peft.tuners.lora.model"
BASE = "peft.tuners.tuners_utils"
GEMMA4 = "transformers.models.gemma4.modeling_gemma4"
ROUNDING = 1e-4  # of fp32, when an adapter is merged


class _Reached(Exception):
    """Raised where the probe has seen enough."""


def probe(_: ModuleType) -> Verdict:
    wrapper_class = sys.modules[GEMMA4].Gemma4ClippableLinear
    import torch
    from peft.tuners.lora.config import LoraConfig  # peft itself may still be loading

    if issubclass(wrapper_class, torch.nn.Linear):
        return Verdict.FIXED
    wrapper = wrapper_class.__new__(wrapper_class)
    torch.nn.Module.__init__(wrapper)
    wrapper.linear = torch.nn.Linear(1, 1, device="meta")
    parent = torch.nn.Module()
    parent.q_proj = wrapper
    seen: list[Any] = []

    def create(_config: Any, _name: str, target: Any, **_: Any) -> Any:
        seen.append(target)
        raise _Reached

    tuner = SimpleNamespace(
        model=parent,
        active_adapters=["probe"],
        _create_new_module=create,
        _replace_module=lambda *_: None,
    )
    with suppress(_Reached):
        sys.modules[LORA].LoraModel._create_and_replace(  # noqa: SLF001 - what the repair wraps
            tuner, LoraConfig(), "probe", wrapper, "q_proj", parent, current_key="q_proj"
        )
    if seen == [wrapper.linear]:
        return Verdict.FIXED
    return Verdict.AFFECTED if seen == [wrapper] else Verdict.UNKNOWN


def repair(_: ModuleType, changes: Changes) -> None:
    wrapper_class = sys.modules[GEMMA4].Gemma4ClippableLinear

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def create_and_replace(  # noqa: PLR0913, PLR0917 - as upstream has it
            self: Any,
            lora_config: Any,
            adapter_name: str,
            target: Any,
            target_name: str,
            parent: Any,
            *args: Any,
            **kwargs: Any,
        ) -> None:
            registered = tuple(getattr(lora_config, "_custom_modules", None) or ())
            if isinstance(target, wrapper_class) and not isinstance(target, registered):
                target, target_name, parent = target.linear, "linear", target
            original(self, lora_config, adapter_name, target, target_name, parent, *args, **kwargs)

        return create_and_replace

    for tuner in _tuners(sys.modules[BASE].BaseTuner):
        changes.wrap(tuner, "_create_and_replace", make)


def _tuners(base: Any) -> Iterator[Any]:
    for kind in base.__subclasses__():
        if "_create_and_replace" in vars(kind):
            yield kind
        yield from _tuners(kind)


def canary() -> Figure:
    import torch
    from peft import LoraConfig, get_peft_model

    from zoo_hooks.patches.transformers import _tiny

    base = _tiny.multimodal_model()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        adapted = model(**_tiny.image_inputs()).logits
        merged = model.merge_and_unload()(**_tiny.image_inputs()).logits
    gap = float((adapted - merged).abs().max())
    return Figure(gap, healthy=gap < ROUNDING)


PATCH = Patch(
    module=__name__,
    title="No adapter can target Gemma4ClippableLinear, the projections of Gemma-4's towers",
    severity="crash",
    symptoms=("Target module Gemma4ClippableLinear(",),
    targets=(TUNERS, GEMMA4),
    affects=("peft>=0.15.0", "transformers>=5.5.0"),
    links=(
        "https://github.com/huggingface/peft/issues/3129",
        "https://github.com/huggingface/transformers/pull/45388",
        "https://github.com/huggingface/peft/pull/3154",
    ),
    measures="largest difference in logits between adapted and merged model (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=(TUNERS, GEMMA4),
)
