"""Shared by the patches of image masks that ``generate`` makes in advance for a static cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches import _known
from zoo_hooks.patches.transformers import _four_bit, _tiny

MORE = {"use_bidirectional_attention": "vision", "sliding_window": 32, **_tiny._layers(4, 2)}  # noqa: SLF001
TYPES, FIRST = "mm_token_type_ids", "is_first_iteration"
KNOWN = {
    "e1cab58369c3": Verdict.AFFECTED,  # Gemma-4, 5.5.0 to 5.5.4
    "a0f4ed4ed3b6": Verdict.AFFECTED,  # Gemma-4, 5.8.1
    "28261f2bcb55": Verdict.AFFECTED,  # Gemma-4, 5.9.0 to 5.12.1
    "e41a2701d7a1": Verdict.AFFECTED,  # Gemma-4, 5.13.0 to 5.14.1
    "74cd2cebb869": Verdict.AFFECTED,  # Gemma-4, 5.15.0 to 5.17.0
    "b9c41433a79b": Verdict.AFFECTED,  # Gemma-4, 5.18.0 to 5.19.0
    "920f8ffc8268": Verdict.AFFECTED,  # Gemma-4, 5.20.0 to 5.22.2
    "1d25ec75ac84": Verdict.FIXED,  # Gemma-4, 5.23.0
    "a833cafb5179": Verdict.FIXED,  # Gemma-4, 5.24.0
}


def verdict(model: Any, module: ModuleType) -> Verdict:
    """Prepares two tokens of an image for a cache of fixed size, with a model that has one weight."""
    generates = module.GenerationMixin.prepare_inputs_for_generation
    if known := _known.verdict(KNOWN, model.prepare_inputs_for_generation, generates):
        return known
    if FIRST not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        return Verdict.UNKNOWN
    torch, seen = module.torch, []

    def masks(**kwargs: Any) -> None:
        seen.append(kwargs.get(TYPES))

    some = model.__new__(model)
    module.nn.Module.__init__(some)
    some.weight = module.nn.Parameter(torch.zeros(1), requires_grad=False)
    some.config, some.create_masks_for_generate = module.PreTrainedConfig(), masks
    fixed = {"is_compileable": True, "is_linear": [False], "get_seq_length": lambda *_: 0}
    cache = type("Fixed", (module.Cache,), fixed)(layers=[])
    ids = torch.ones(1, 2, dtype=torch.long)
    names = inspect.signature(generates).parameters
    name = "cache" if "cache" in names else "past_key_values"
    given = {"attention_mask": ids, name: cache, TYPES: ids, "use_cache": True}
    some.prepare_inputs_for_generation(ids, is_first_iteration=True, **given)
    if not seen:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if seen[-1] is None else Verdict.FIXED


def with_types(original: Callable[..., Any]) -> Callable[..., Any]:
    """``prepare_inputs_for_generation`` that makes the masks of a prompt once more, from the types too."""

    def prepare(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = original(self, input_ids, *args, **kwargs)
        types = kwargs.get(TYPES)
        if types is None or not kwargs.get(FIRST) or "attention_mask" not in kwargs:
            return inputs
        cache, given = inputs.get("past_key_values"), kwargs["attention_mask"]
        if not getattr(cache, "is_compileable", False) or (given is not None and given.ndim != 2):  # noqa: PLR2004
            return inputs
        embeds, ids = inputs.get("inputs_embeds"), inputs["input_ids"]
        length = (ids if embeds is None else embeds).shape[1]
        masks = self.create_masks_for_generate(
            config=self.config,
            inputs_embeds=input_ids.new_empty((types.shape[0], length, 0), dtype=self.dtype),
            attention_mask=given,
            past_key_values=cache,
            position_ids=inputs.get("position_ids"),
            mm_token_type_ids=types[..., -length:],
            is_first_iteration=True,
        )
        if isinstance(masks, dict):
            masks = {kind: None if mask is None else mask.contiguous() for kind, mask in masks.items()}
        return {**inputs, "attention_mask": masks}

    return prepare


def difference(model: Any, inputs: dict[str, Any]) -> Figure:
    """Largest difference of the first logits, generated with a static cache and with one that grows."""
    how = {
        "max_new_tokens": 1,
        "disable_compile": True,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    kinds = ("dynamic", "static")
    grown, fixed = (model.generate(**inputs, **how, cache_implementation=kind).logits[0] for kind in kinds)
    gap = float((grown - fixed).abs().max())
    return Figure(round(gap, 5), healthy=gap < 1e-5)  # noqa: PLR2004


def seeing_model() -> Any:
    """A Gemma-4 of four layers whose image tokens see each other, as in 12B, 26B-A4B and 31B.

    Two layers share K/V, for before 5.10.1 no static cache is made for a model that has none of these.
    """
    import transformers

    text = {**_tiny.TEXT, **_tiny.GEMMA4, **_tiny.PER_LAYER_INPUTS, **MORE}
    config = transformers.Gemma4Config(
        text_config=text, vision_config=_tiny.VISION, audio_config=None, **_tiny.TOKENS
    )
    return _tiny._seeded(transformers.Gemma4ForConditionalGeneration, config)  # noqa: SLF001


def unified_seeing_model() -> Any:
    """A Gemma-4 unified like it."""
    import transformers
    from transformers.models.gemma4_unified.modeling_gemma4_unified import (
        Gemma4UnifiedForConditionalGeneration,
    )

    like = _four_bit.unified_model().config
    text = {**like.text_config.to_dict(), **MORE}
    config = transformers.Gemma4UnifiedConfig(
        text_config=text, vision_config=like.vision_config, audio_config=like.audio_config, **_tiny.TOKENS
    )
    return _tiny._seeded(Gemma4UnifiedForConditionalGeneration, config)  # noqa: SLF001


def molmo2_model() -> Any:
    """The text model of a Molmo2 of two layers, with a tower that nothing is shown to."""
    import transformers

    text = {key: value for key, value in _tiny.TEXT.items() if key != "sliding_window"}
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    config = transformers.Molmo2Config(
        text_config={**text, "num_hidden_layers": 2},
        vision_config={**tower, "num_hidden_layers": 1, "image_size": [8, 8], "patch_size": 4},
        adapter_config={**tower, "vision_feature_layer": [0], "text_hidden_size": 32},
        image_patch_id=70,
    )
    return _tiny._seeded(transformers.Molmo2ForConditionalGeneration, config)  # noqa: SLF001
