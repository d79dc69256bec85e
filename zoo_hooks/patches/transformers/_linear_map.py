"""Tells whether a layer is known to be a linear map, ``layer(scale * x) == scale * layer(x)``.

A test of that would have to call the layer twice. So the layer and its parts are compared with the classes
below, which are linear as long as they have no bias, no hook and no replaced forward. Any other layer counts
as not linear.
"""

from __future__ import annotations

from typing import Any

PARTS = {
    ("bitsandbytes.nn.modules", "Linear4bit"),
    ("bitsandbytes.nn.modules", "Linear8bitLt"),
    ("peft.tuners.lora.bnb", "Linear4bit"),
    ("peft.tuners.lora.bnb", "Linear8bitLt"),
    ("peft.tuners.lora.dora", "DoraLinearLayer"),
    ("peft.tuners.lora.layer", "Linear"),
    ("torch.nn.modules.container", "ModuleDict"),
    ("torch.nn.modules.container", "ParameterDict"),
    ("torch.nn.modules.dropout", "Dropout"),
    ("torch.nn.modules.linear", "Identity"),
    ("torch.nn.modules.linear", "Linear"),
    ("transformers.models.gemma4.modeling_gemma4", "Gemma4ClippableLinear"),
}
VARIANTS = {
    ("peft.tuners.lora.variants", "DoraLinearVariant"),
    ("peft.tuners.lora.variants", "KasaLinearVariant"),
    ("peft.tuners.lora.variants", "MiCALinearVariant"),
}
"""What LoRA computes with some of its options."""
MOVERS = {("accelerate.hooks", "AlignDevicesHook")}
"""What accelerate puts around a forward that computes the same, for ``device_map``."""
PLAIN = {
    ("bitsandbytes.nn.modules", "Int8Params"),
    ("bitsandbytes.nn.modules", "Params4bit"),
    ("torch", "Tensor"),
    ("torch._subclasses.fake_tensor", "FakeTensor"),
    ("torch._subclasses.functional_tensor", "FunctionalTensor"),
    ("torch.nn.parameter", "Parameter"),
}
"""Tensors that only multiply; others may round what they are given, or are parts of one, as DTensor."""


def is_plain(tensor: Any) -> bool:
    return _class(tensor) in PLAIN and not tensor.is_nested


def is_linear(layer: Any) -> bool:
    import torch

    if torch.nn.modules.module._has_any_global_hook():  # noqa: SLF001
        return False
    parts = [layer]
    while parts:
        part = parts.pop()
        if _class(part) not in PARTS or not _is_original(type(part)):
            return False
        own = part.__dict__
        if not is_untouched(part) or own.get("use_clipped_linears") or _tensor(own, "bias") is not None:
            return False
        weight, variants = _tensor(own, "weight"), own.get("lora_variant")
        if weight is not None and not is_plain(weight):
            return False
        if variants and not all(_class(one) in VARIANTS for one in variants.values()):
            return False
        parts += own["_modules"].values()
    return True


def _is_original(kind: Any) -> bool:
    """Whether the forward of a class is defined in the module of the class, or there is none."""
    names = getattr(kind.forward, "__globals__", {})
    return names.get("__name__") in (kind.__module__, "torch.nn.modules.module")


def is_untouched(layer: Any) -> bool:
    """Whether a call reaches the forward of the class directly, without a hook or a replaced forward."""
    own = layer.__dict__
    if (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    ):
        return False
    return "forward" not in own or _only_moves(layer)


def _only_moves(layer: Any) -> bool:
    """Whether the instance's own forward is that of its class, or accelerate's wrapper around it."""
    forward, hook = layer.forward, layer.__dict__.get("_hf_hook")
    if hook is not None and getattr(getattr(forward, "func", None), "__module__", "") == "accelerate.hooks":
        if not all(_class(one) in MOVERS for one in getattr(hook, "hooks", (hook,))):
            return False
        forward = layer._old_forward  # noqa: SLF001
    return getattr(forward, "__func__", None) is type(layer).forward


def _tensor(own: Any, name: str) -> Any:
    """A parameter or buffer, or the attribute with which FSDP replaces it."""
    return own["_parameters"].get(name, own["_buffers"].get(name, own.get(name)))


def _class(thing: Any) -> tuple[str, str]:
    kind = type(thing)
    return kind.__module__, kind.__qualname__
