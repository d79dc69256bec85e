"""A 4-bit checkpoint does not run or load if a module on its skip list has a packed weight.

Symptom
-------
A checkpoint that bitsandbytes packed to 4 bits contains a packed weight for a module that its
``llm_int8_skip_modules`` lists, such as the patch embedder of Gemma-4. The checkpoint loads, but the
forward pass raises ``RuntimeError: mat1 and mat2 shapes cannot be multiplied``. From transformers 5.23.0
on, loading already raises an error, because the shapes do not match. The ``state_dict`` of the loaded model
lacks the entries that are needed to unpack the weight.

Cause
-----
The skip list alone decides which modules become ``Linear4bit``. For a module on the list,
``Bnb4bitDeserialize`` nevertheless builds the packed weight from the checkpoint. The module that receives
it is a plain ``nn.Linear``, which can neither multiply by a packed weight nor save it.

Repair
------
If a module is exactly an ``nn.Linear`` when its packed weight arrives, zoo-hooks turns it into the same
``Linear4bit`` that transformers makes of modules outside the list. Listed modules whose weight is not
packed stay as they are. No other ``nn.Linear`` is touched.

Before 5.22 the loader casts the weight of a plain module to the dtype of that module. This destroys packed
bytes that are stored as floats (``bnb_4bit_quant_storage``). So zoo-hooks loads packed weights in the dtype
in which they are stored. A packed weight that other code has already cast raises an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _four_bit

NAMES, STATES = ("model", "full_layer_name"), "state_dict"


def probe(module: ModuleType) -> Verdict:
    deserialize, quantize = module.Bnb4bitDeserialize, module.bnb.functional.quantize_4bit

    import torch
    from transformers import BitsAndBytesConfig, core_model_loading

    model = torch.nn.Module()
    model.linear = torch.nn.Linear(64, 1, bias=False, device="meta")
    weight, state = quantize(torch.ones(1, 64), quant_type="nf4")
    packed = {"weight": weight, **{f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}}
    quantizer = SimpleNamespace(quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    convert = deserialize(quantizer).convert
    load = core_model_loading.convert_and_load_state_dict_in_model
    if not {*NAMES} <= signature(convert).parameters.keys() or STATES not in signature(load).parameters:
        return Verdict.UNKNOWN
    loaded = convert(packed, **dict(zip(NAMES, (model, "linear.weight"), strict=True)))["weight"]
    if not hasattr(loaded, "quant_state") or type(model.linear) is module.bnb.nn.Linear4bit:
        return Verdict.FIXED
    return Verdict.AFFECTED if type(model.linear) is torch.nn.Linear else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    from transformers import core_model_loading, modeling_utils  # noqa: F401 - it has a copy to rebind
    from transformers.quantizers.base import HfQuantizer

    def make(convert: Callable[..., Any]) -> Callable[..., Any]:
        names = signature(convert)

        def converting(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = names.bind(self, *args, **kwargs).arguments
            _, parts, *_ = given.values()
            if len(parts) > 1:
                weight = parts["weight"][0] if isinstance(parts["weight"], list) else parts["weight"]
                model, name = (given[name] for name in NAMES)
                _become_linear4bit(model, name, self.hf_quantizer.quantization_config, weight.dtype)
            return convert(self, *args, **kwargs)

        return converting

    changes.wrap(module.Bnb4bitDeserialize, "convert", make)
    if not hasattr(HfQuantizer, "get_new_dtype"):  # by which it says itself that nothing is to be cast
        load = core_model_loading.convert_and_load_state_dict_in_model
        changes.rebind(load, functools.wraps(load)(_loading_as_stored(load)))


def _loading_as_stored(load: Callable[..., Any]) -> Callable[..., Any]:
    names = signature(load)

    def loading(*args: Any, **kwargs: Any) -> Any:
        given = names.bind(*args, **kwargs)
        states = given.arguments[STATES]
        packed = {key.partition(".quant_state.")[0] for key in states if ".quant_state." in key}
        kept = {key: _AsStored(states[key]) for key in packed & states.keys()}
        given.arguments[STATES] = {**states, **kept}
        return load(*given.args, **given.kwargs)

    return loading


class _AsStored:
    """A tensor of a checkpoint, or the slice that reads it, that is not cast."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored

    def __getattr__(self, name: str) -> Any:
        if name == "_stored":
            raise AttributeError(name)  # of one that is being copied
        return getattr(self._stored, name)

    def __getitem__(self, where: Any) -> Any:
        return _AsStored(self._stored[where])

    def to(self, device: Any = None, dtype: Any = None) -> Any:  # noqa: ARG002 - that is the point
        return self._stored.to(device=device)


def _become_linear4bit(model: Any, weight: str, config: Any, dtype: Any) -> None:
    import torch
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    name = weight.rpartition(".")[0]
    bare = model.get_submodule(name)
    if type(bare) is torch.nn.Linear:
        stored = config.bnb_4bit_quant_storage
        if dtype.is_floating_point and dtype is not stored:
            raise RuntimeError(
                f"{weight} is packed in {stored} but was loaded as {dtype}: its bytes are lost"
            )
        holder = torch.nn.Module()
        holder.linear = bare
        replace_with_bnb_linear(holder, quantization_config=config, pre_quantized=True)
        holder.linear.bias = bare.bias  # it may have been loaded already
        holder.linear.train(bare.training)
        model.set_submodule(name, holder.linear)


def canary() -> Figure:
    model = _four_bit.quantised(_four_bit.text_model())
    loaded = _four_bit.reloaded(model, skip=["lm_head", "o_proj"])
    return _four_bit.difference(model, loaded, _four_bit.text_inputs())


PATCH = Patch(
    module=__name__,
    title="A module on the skip list whose weight is packed to 4 bits does not load or run",
    severity="crash",
    symptoms=(
        "mat1 and mat2 shapes cannot be multiplied (*and 1x* @ bitsandbytes.nn.modules",
        "Reinit due to size mismatch - ckpt: torch.Size([*, 1]) vs model",
    ),
    targets=("transformers.integrations.bitsandbytes",),
    affects=("transformers>=5.0.0rc0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/pull/42043",
        "https://github.com/unslothai/unsloth/pull/5034",
        "https://github.com/vllm-project/vllm/pull/42825",
    ),
    measures="largest difference between the logits before and after saving and loading (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=("bitsandbytes", "transformers.core_model_loading"),
)
