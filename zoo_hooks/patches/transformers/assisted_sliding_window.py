"""Assisted generation raises an error once a sliding window is full.

Symptom
-------
``generate`` with a draft model (``assistant_model``) raises ``ValueError: Cannot `crop` a
`DynamicSlidingWindowLayer` after it has seen more tokens than its sliding window``. In some releases
``prompt_lookup_num_tokens`` leads to the same error. Every model with such layers is affected: Gemma-2, -3,
-3n and -4, Mistral, gpt-oss and others.

Cause
-----
When the draft model guesses wrong tokens, ``generate`` crops them from the KV caches of both models. A
cache layer that stores only its sliding window cannot be cropped. So ``generate`` asks for caches that keep
every token (``dynamic_full``). Releases 5.12 and 5.13 ignore this request. Release 5.0 creates no cache for
assisted generation. The model then creates one itself, with sliding windows. Release 4.56 does not make the
request for the draft model.

Repair
------
Where ``generate`` creates a cache that it will crop, zoo-hooks replaces the sliding-window layers of that
cache with layers that keep every token, as in 5.14. In 5.0 it first makes ``generate`` create a cache. The
attention mask still limits attention to the window. Caches that the caller passes in are left alone.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _calls
from zoo_hooks.patches.transformers import _tiny, _zero_shared

PREPARE = "_prepare_cache_for_generation"
FULL = "dynamic_full"
ROLLED_BACK = ("assisted_generation", "contrastive_search")
"""Values of GenerationMode, whose members are strings."""


def probe(module: ModuleType) -> Verdict:
    from transformers import cache_utils, configuration_utils

    if not _zero_shared.knows_sharing(cache_utils):
        return Verdict.FIXED  # no layers with a window
    config_class = (
        getattr(configuration_utils, "PreTrainedConfig", None) or configuration_utils.PretrainedConfig
    )
    kinds = ["sliding_attention", "full_attention"]
    model = type("Model", (module.GenerationMixin,), {"_is_stateful": False, "_modules": {}})()
    model.config = config_class(num_hidden_layers=2, sliding_window=8, layer_types=kinds)
    draft, main = _made(model, *_draft(module)), _made(model, *_main(module))
    if draft is None:
        return Verdict.UNKNOWN
    return Verdict.FIXED if _keeps_all(draft) and main is not None and _keeps_all(main) else Verdict.AFFECTED


def _made(model: Any, config: Any, mode: Any) -> Any:
    """Return the cache that ``generate`` would make for a model."""
    model_kwargs: dict[str, Any] = {}
    with _calls.in_place_of_torchs(tensor=lambda *_, **__: None):  # the window, in a layer that has one
        getattr(model, PREPARE)(config, model_kwargs, mode, 1, 16)
    return _cache(model_kwargs)


def _main(module: ModuleType) -> tuple[Any, Any]:
    """How a model generates with tokens that are looked up."""
    modes = {"generation_mode": module.GenerationMode.ASSISTED_GENERATION, "assistant_model": None}
    name = list(inspect.signature(getattr(module.GenerationMixin, PREPARE)).parameters)[3]
    return module.GenerationConfig(prompt_lookup_num_tokens=3), modes[name]


def _draft(module: ModuleType) -> tuple[Any, Any]:
    """How a draft model generates."""
    config = module.GenerationConfig()
    config.is_assistant = True
    names = inspect.unwrap(module.AssistedCandidateGenerator.__init__).__code__.co_consts
    config.cache_implementation = FULL if FULL in names else None
    return config, None


def _cache(model_kwargs: dict[str, Any]) -> Any:
    cache = _zero_shared.held(model_kwargs)
    return getattr(cache, "self_attention_cache", cache)  # beside which an encoder's is


def _keeps_all(cache: Any) -> bool:
    """Tell whether a cache can be cropped; later releases let layers with a window record what they drop."""
    windows = [layer for layer in cache.layers if getattr(layer, "is_sliding", False)]
    return all(hasattr(layer, "activate_past_recording") for layer in windows)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.GenerationMixin, PREPARE, _for_rolling_back)


def _for_rolling_back(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare(self: Any, generation_config: Any, model_kwargs: Any, *args: Any, **kwargs: Any) -> Any:
        given = _cache(model_kwargs)
        made = original(self, generation_config, model_kwargs, *args, **kwargs)
        modes = [value for value in (*args, *kwargs.values()) if value in ROLLED_BACK]
        asked = modes or generation_config.is_assistant or generation_config.cache_implementation == FULL
        if given is not None or not asked:
            return made
        if _cache(model_kwargs) is None and generation_config.use_cache is not False and modes:
            generation_config.cache_implementation = FULL
            args = tuple(None if value in modes else value for value in args)
            kwargs = {name: None if value in modes else value for name, value in kwargs.items()}
            made = original(self, generation_config, model_kwargs, *args, **kwargs)
        if (cache := _cache(model_kwargs)) is not None:
            _keep_all(cache)
        return made

    return prepare


def _keep_all(cache: Any) -> None:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            cache.layers[number] = DynamicLayer()


def canary() -> Figure:
    import transformers
    from transformers import cache_utils

    if not _zero_shared.knows_sharing(cache_utils):
        return Figure("this release has no layers with a window", healthy=True)
    sharing = _tiny.shared_model if hasattr(transformers, "Gemma4ForCausalLM") else _tiny.gemma3n_model
    model, how = sharing(**_tiny.PER_LAYER_INPUTS), {"max_new_tokens": 16, "do_sample": False}
    expected = model.generate(_tiny.prompt(), **how)
    seen = model.generate(_tiny.prompt(), assistant_model=copy.deepcopy(model), **how)
    different = int((seen != expected).sum())
    return Figure(different, healthy=different == 0)


PATCH = Patch(
    module=__name__,
    title="Assisted generation raises an error once a sliding window is full",
    severity="crash",
    symptoms=("Cannot `crop` a `DynamicSlidingWindowLayer` after it has seen more tokens",),
    targets=("transformers.generation.utils",),
    affects=(
        (
            "transformers>=4.56.0,<5.14.0,!=4.57.*,!=5.1.*,!=5.2.*,!=5.3.*,!=5.4.*,!=5.5.*,!=5.6.*,!=5.7.*,"
            "!=5.8.*,!=5.9.*,!=5.10.*,!=5.11.*"
        ),
    ),
    links=(
        "https://github.com/huggingface/transformers/issues/46629",
        "https://github.com/huggingface/transformers/pull/47347",
    ),
    measures="tokens that differ from decoding without a draft model, of 28, sliding window 8 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
