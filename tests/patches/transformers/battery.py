"""What the battery runs over: tiny models of each real shape, and which of them each patch is about.

A new patch is tested by being listed in PATCHES.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import transformers
import transformers.pipelines.pt_utils  # a patch is about it

from zoo_hooks import catalogue
from zoo_hooks.patches.transformers import _four_bit, _tiny

torch.set_num_threads(1)
HALF = torch.float16
EOS = 79
E2B = {**_tiny.PER_LAYER_INPUTS, "use_double_wide_mlp": True}
E4B = {
    **_tiny.PER_LAYER_INPUTS,
    "num_hidden_layers": 7,
    "num_kv_shared_layers": 3,
    "layer_types": [f"{kind}_attention" for kind in ("sliding", "full") * 2 + ("sliding", "sliding", "full")],
}
"""As E4B, where 18 of 42 layers share."""
DENSE = {"attention_k_eq_v": True}
"""As 31B and 26B-A4B, whose full layers use their keys as values."""
LOUD = 7200.0
"""With this the tower puts out values of 14000; the pooler makes them 5.7 times as large."""


@dataclass(frozen=True)
class Model:
    """How a model is made and used."""

    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]] = lambda: {"input_ids": _tiny.prompt()}
    reference: Callable[[], Any] | None = None
    """The same function as a right upstream computes it: in float32, or freshly packed."""
    error: float = 0.0
    """The relative error against the reference that its precision leaves."""
    least: float = 0.999999
    """The cosine of gradients that differ only by the order in which something is summed."""
    running: Callable[[], Any] = contextlib.nullcontext
    load: Callable[[Any, Any], Any] = lambda model, folder: type(model).from_pretrained(folder).eval()


def half(model: Any) -> Any:
    """The model as ``from_pretrained`` loads it in float16."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, dtype=HALF).eval()


def loud(model: Any = None) -> Any:
    """By default like E2B; products in its MLPs do not fit float16, but their outputs do."""
    model = _tiny.shared_model(**E2B) if model is None else model
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight.data *= 1000
        layer.mlp.up_proj.weight.data *= 1000
        if getattr(layer, "experts", None):
            layer.experts.gate_up_proj.data *= 1000
    return model


def loud_experts() -> Any:
    """The same, like 26B-A4B; every expert is chosen, for rounding would choose others."""
    return loud(_tiny.unshared_model(**DENSE, **{**_tiny.EXPERTS, "top_k_experts": 4}))


def loud_tower() -> Any:
    """Like 31B with its eyes; what its tower pools fits float16 only when it is standardized."""
    config = transformers.Gemma4Config(
        text_config={**_tiny.TEXT, **_tiny.GEMMA4, **_tiny._layers(4, 0), **DENSE},
        vision_config={**_tiny.VISION, "standardize": True},
        audio_config=None,
        **_tiny.TOKENS,
    )
    model = _tiny._seeded(transformers.Gemma4ForConditionalGeneration, config)
    tower = model.model.vision_tower
    tower.patch_embedder.position_embedding_table.data *= LOUD
    tower.std_bias.fill_(40000.0)
    tower.std_scale.fill_(1 / 40000)
    return model


def half_audio(model: Any = None, folder: Any = None, build: Any = _tiny.multimodal_model) -> Any:
    """A model of which only what hears is in float16."""
    model = build() if model is None else type(model).from_pretrained(folder).eval()
    for name in ("audio_tower", "embed_audio"):
        part = getattr(model.model, name, None)  # unified has no tower
        for parameter in part.parameters() if part else ():
            parameter.data = parameter.data.half()
    return model


def autocast() -> Any:
    """As a Trainer has it around each forward; a cache would outlive the step that changes weights."""
    return torch.autocast("cpu", HALF, cache_enabled=False)


def adapters(model: Any, names: Any) -> Any:
    """Adapters on the modules that are named."""
    import peft

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False)
        return peft.get_peft_model(model, config).eval()


def load_adapters(_: Any, folder: Any) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(_tiny.multimodal_model(), folder).eval()


def gemma3() -> Any:
    """A Gemma-3 of four layers."""
    kinds = ["sliding_attention", "full_attention"] * 2
    config = transformers.Gemma3TextConfig(**_tiny.TEXT, num_hidden_layers=4, layer_types=kinds)
    return _tiny._seeded(transformers.Gemma3ForCausalLM, config)


def text_4bit(skip: Any = None) -> Any:
    return _four_bit.quantised(_four_bit.text_model(), skip)


def vision_4bit() -> Any:
    return _four_bit.quantised(_four_bit.vision_model(), ["lm_head"])


def unified_4bit() -> Any:
    return _four_bit.quantised(_four_bit.unified_model(), ["lm_head"])


MODELS = {
    "unshared": Model(_tiny.unshared_model),
    "gemma3n": Model(_tiny.gemma3n_model),
    "gemma3n-fp16": Model(
        lambda: half(loud(_tiny.gemma3n_model())),
        reference=lambda: loud(_tiny.gemma3n_model()),
        error=0.01,
        least=0.5,
    ),
    "gemma3-fp16": Model(
        lambda: half(loud(gemma3())), reference=lambda: loud(gemma3()), error=0.01, least=0.5
    ),
    "4bit": Model(lambda: text_4bit(["lm_head", "self_attn"])),
    "4bit-loaded": Model(lambda: _four_bit.reloaded(text_4bit()), reference=text_4bit),
    "4bit-bare": Model(
        lambda: _four_bit.reloaded(text_4bit(), ["lm_head", "o_proj"]), reference=text_4bit
    ),
}  # fmt: skip
"""By name, those that the installed release has."""
if hasattr(transformers, "Gemma4ForCausalLM"):
    MODELS |= {
        "31b": Model(lambda: _tiny.unshared_model(**DENSE)),
        "26b-a4b": Model(lambda: _tiny.unshared_model(**DENSE, **_tiny.EXPERTS)),
        "e2b": Model(lambda: _tiny.shared_model(**E2B)),
        "e4b": Model(lambda: _tiny.shared_model(**E4B)),
        "no-per-layer-inputs": Model(_tiny.shared_model),
        "vision": Model(_tiny.multimodal_model, _tiny.image_inputs),
        "audio": Model(_tiny.multimodal_model, _tiny.audio_inputs),
        "e2b-fp16": Model(lambda: half(loud()), reference=loud, error=0.01, least=0.9),
        "26b-a4b-fp16": Model(
            lambda: half(loud_experts()), reference=loud_experts, error=0.01, least=0.8
        ),
        "e2b-autocast": Model(
            loud, reference=loud, error=0.01, least=0.8, running=autocast
        ),
        "vision-fp16": Model(
            lambda: half(loud_tower()), _tiny.image_inputs, reference=loud_tower, error=0.01, least=0.9
        ),
        "audio-fp16": Model(
            half_audio, _tiny.audio_inputs, reference=_tiny.multimodal_model, error=0.01, least=0.8,
            load=half_audio,
        ),
        "audio-autocast": Model(
            _tiny.multimodal_model, _tiny.audio_inputs, reference=_tiny.multimodal_model, error=0.01,
            least=0.8, running=autocast,
        ),
        "vision-4bit-default": Model(
            lambda: _four_bit.quantised(_four_bit.vision_model()), _four_bit.vision_inputs
        ),
        "vision-4bit": Model(
            lambda: _four_bit.reloaded(vision_4bit(), ["lm_head", "patch_embedder"]), _four_bit.vision_inputs,
            reference=vision_4bit,
        ),
    }  # fmt: skip
    if find_spec("peft"):
        MODELS["vision-lora"] = Model(
            lambda: adapters(_tiny.multimodal_model(), ["q_proj", "v_proj"]),
            _tiny.image_inputs,
            load=load_adapters,
        )
if hasattr(transformers, "Gemma4UnifiedTextConfig"):
    MODELS["unified"] = Model(_tiny.unified_model)
    MODELS["unified-4bit"] = Model(unified_4bit, _four_bit.unified_inputs)
    MODELS["unified-audio-fp16"] = Model(
        lambda: half_audio(build=_four_bit.unified_model), _four_bit.unified_audio_inputs,
        reference=_four_bit.unified_model, error=0.01, least=0.8, load=half_audio,
    )  # fmt: skip


SEEING = tuple(name for name in MODELS if name.startswith(("vision", "audio")))
ASSISTED = ("31b", "26b-a4b", "e2b", "e4b") if hasattr(transformers, "Gemma4AssistantConfig") else ()
SHARING = ("gemma3n", "unified", "e2b", "e4b", "vision", "audio")
SPECIAL = {
    "transformers/assisted-sliding-window": ("unshared", "31b", "e2b", "e4b"),
    "transformers/bare-linear-packed-4bit": ("4bit-bare", "4bit-loaded", "vision-4bit"),
    "transformers/cache-dynamic-zero-shared": ("unshared", "31b", "26b-a4b", "vision-fp16"),
    "transformers/cache-layer-dtype": ("unshared", "gemma3n"),
    "transformers/cache-static-zero-shared": ("unshared", "31b", "26b-a4b", "vision-fp16"),
    "transformers/checkpointed-layer-keywords": ("unshared", "vision-fp16", "audio"),
    "transformers/gemma3-mlp-fp16": ("gemma3-fp16",),
    "transformers/gemma3n-mlp-fp16": ("gemma3n-fp16",),
    "transformers/gemma3n-no-cache-shared-kv": ("gemma3n",),
    "transformers/gemma4-assistant-arguments": ("31b", "e2b"),
    "transformers/gemma4-assistant-shared-kv": ("31b", "26b-a4b", "e2b", "e4b"),
    "transformers/gemma4-audio-attention-autocast": ("audio-autocast",),
    "transformers/gemma4-audio-features-dtype": ("audio-fp16",),
    "transformers/gemma4-experts-fp16": ("26b-a4b-fp16",),
    "transformers/gemma4-image-static-cache": ("vision",),
    "transformers/gemma4-mlp-fp16": ("e2b-fp16", "e2b-autocast"),
    "transformers/gemma4-no-cache-shared-kv": ("e2b", "e4b", "vision", "audio"),
    "transformers/gemma4-patch-embedder-packed-4bit": ("vision-4bit-default",),
    "transformers/gemma4-patch-embedder-uint8": ("vision-4bit",),
    "transformers/gemma4-per-layer-inputs-off": ("no-per-layer-inputs",),
    "transformers/gemma4-reentrant-checkpointing": SHARING,
    "transformers/gemma4-unified-audio-features-dtype": ("unified-audio-fp16",),
    "transformers/gemma4-unified-embedders-uint8": ("unified-4bit",),
    "transformers/gemma4-unified-image-static-cache": ("unified-4bit",),
    "transformers/gemma4-vision-pooler-fp16": ("vision-fp16",),
    "transformers/input-require-grads": ("unshared", "vision-lora"),
    "transformers/shared-kv-states-copied": ("gemma3n", "e2b", "e4b"),
    "transformers/skip-list-inner-names-4bit": ("4bit",),
    "transformers/skip-list-inner-names-8bit": ("4bit",),
    "transformers/torchcodec-broken": ("audio",),
    "transformers/trainer-rng-state": ("unshared", "e2b"),
}
"""Names of models by patch. A model that is named here goes through all of the battery."""
FAMILIES = "transformers.models."


def tried() -> dict[str, tuple[str, ...]]:
    """The patches that models here go through, and which models.

    Not those of families that share no module with these models, nor that of mistral-common.
    Their own tests go through what holds there.
    """
    found = {}
    for patch in catalogue.everything():
        elsewhere = all(target.startswith(FAMILIES) or "mistral_common" in target for target in patch.targets)
        if patch.upstream in DEFAULT and (patch.id in SPECIAL or not elsewhere):
            found[patch.id] = SPECIAL.get(patch.id, DEFAULT[patch.upstream])
    return found


DEFAULT = {"peft": ("vision-lora",), "transformers": ("unshared",)}
PATCHES = tried()

CANNOT = [
    ("copies", "transformers>=5.0.0rc1", ("4bit-loaded", "4bit-bare", "vision-4bit"), "4bit-loaded"),
    (
        "exported",
        "transformers",
        ("4bit", "4bit-loaded", "4bit-bare", "vision-4bit-default", "vision-4bit", "unified-4bit"),
        "4bit-loaded",
    ),
    ("static_cache", "transformers<5.24.0", ("e2b-autocast", "audio-autocast"), "e2b-autocast"),
    ("static_cache", "transformers<5.23.0", ("unified-4bit",), "unified-4bit"),
    ("resuming", "transformers==5.5.0", ("gemma3n", "gemma3n-fp16"), "gemma3n"),
    ("compiled", "transformers==5.5.0", SEEING, "vision"),
]
"""What upstream cannot do, with or without the hooks: activity, releases, models, and the model of which
the same is asked without the hooks. In this order: save a model that was loaded in 4 bits; trace a
bitsandbytes layer; give a static cache what autocast made of keys and values; see with a static cache as with
one that grows, if unified and packed to 4 bits; load what a Trainer saved of Gemma-3n, under other names;
trace checks with messages of their own."""
