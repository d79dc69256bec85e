"""Assisted generation from a cache that is handed in gives wrong tokens, or raises.

Symptom
-------
``generate(..., past_key_values=cache)`` with a draft model (``assistant_model``) or with
``prompt_lookup_num_tokens``, as in the second turn of a chat, gives other tokens than greedy decoding, and
no error or warning. Before 5.15, where a sliding window is full, it raises ``ValueError: Cannot `crop` a
`DynamicSlidingWindowLayer```.

Cause
-----
Without assistance ``generate`` runs only what the cache does not hold yet. Since 5.3.0 the first step of
assisted generation runs the whole text, behind what the cache holds, so that most of it stands there twice.
And layers that keep only their window cannot be cropped.

Repair
------
The first step runs what the cache does not hold, by the rule by which ``generate`` without assistance does
it: where ids and mask are of one length. Before 5.15 layers with a window become such that keep every token,
as in a cache that ``generate`` makes for this; in place of the tokens that they dropped, which no later one
can see, stand zeros. The cache stays so.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _assisted, _tiny, _zero_shared

DECODE = "_assisted_decoding"
INPUTS = "prepare_inputs_for_generation"
SINCE = "next_sequence_length"
"""An argument that came with the first fault."""


class _Ran(Exception):
    """Raised by the probe's model in its first step."""


def probe(module: ModuleType) -> Verdict:
    from transformers import cache_utils

    if not _zero_shared.knows_sharing(cache_utils):
        return Verdict.FIXED  # models with a window have no assisted generation
    steps: list[Any] = []
    with suppress(_Ran):
        _first_step(module, cache_utils, steps)
    (given,) = steps
    right = given["input_ids"].shape[1] == 2 and _assisted.keeps_all(_assisted.cache_of(given))  # noqa: PLR2004
    return Verdict.FIXED if right else Verdict.AFFECTED


def _first_step(module: ModuleType, cache_utils: Any, steps: list[Any]) -> None:
    """Generate from 11 tokens, of which a cache holds nine, until the model is run with what is kept."""

    def run(_: Any, input_ids: Any = None, **more: Any) -> None:
        steps.append({"input_ids": input_ids, **more})
        raise _Ran

    guess = SimpleNamespace(get_candidates=lambda ids, *_, **__: (ids, None), requires_model_outputs=False)
    model = _assisted.stand_in(
        module,
        forward=run,
        __call__=run,
        device=module.torch.device("cpu"),
        is_remote_code=lambda *_: False,
        _get_candidate_generator=lambda *_, **__: guess,
    )
    cache = cache_utils.DynamicCache(config=model.config)
    for layer in (0, 1):
        cache.update(module.torch.zeros(1, 1, 9, 2), module.torch.zeros(1, 1, 9, 2), layer)
    parameters = inspect.signature(getattr(model, INPUTS)).parameters
    name = next(name for name in _zero_shared.CACHE if name in parameters)
    offered = {
        "candidate_generator": guess,
        "logits_processor": [],
        "stopping_criteria": lambda *_: False,
        "generation_config": module.GenerationConfig(),
        "synced_gpus": False,
        "streamer": None,
    }
    asked = inspect.signature(getattr(model, DECODE)).parameters
    given = {name: value for name, value in offered.items() if name in asked}
    ids = module.torch.ones(1, 11, dtype=module.torch.long)
    getattr(model, DECODE)(ids, **given, use_cache=True, attention_mask=ids, **{name: cache})


def repair(module: ModuleType, changes: Changes) -> None:
    mixin = module.GenerationMixin
    changes.wrap(mixin, DECODE, _with_a_cache_to_crop)
    if SINCE in inspect.signature(getattr(mixin, INPUTS)).parameters:
        changes.wrap(mixin, INPUTS, _after_the_cache)


def _with_a_cache_to_crop(original: Callable[..., Any]) -> Callable[..., Any]:
    def decode(self: Any, *args: Any, **kwargs: Any) -> Any:
        cache = _assisted.cache_of(kwargs)
        if cache is not None and not _assisted.keeps_all(cache):
            _assisted.keep_all(cache)
        return original(self, *args, **kwargs)

    return decode


def _after_the_cache(original: Callable[..., Any]) -> Callable[..., Any]:
    def inputs(self: Any, input_ids: Any, next_sequence_length: Any = None, *args: Any, **kwargs: Any) -> Any:
        if next_sequence_length is None and kwargs.get("is_first_iteration"):
            next_sequence_length = _rest(input_ids, kwargs, decoder=self.config.is_encoder_decoder)
        return original(self, input_ids, next_sequence_length, *args, **kwargs)

    return inputs


def _rest(input_ids: Any, given: dict[str, Any], *, decoder: bool) -> int | None:
    """How many of the ids a cache does not hold; None where it holds none, or they are the new ones alone."""
    cache, mask = (
        _assisted.cache_of(given),
        given.get("decoder_attention_mask" if decoder else "attention_mask"),
    )
    if cache is None or given.get("inputs_embeds") is not None or all(getattr(cache, "is_linear", [False])):
        return None
    held, whole = cache.get_seq_length(), input_ids.shape[1]
    return whole - held if 0 < held < whole and getattr(mask, "shape", ())[1:] == (whole,) else None


def canary() -> Figure:
    import torch
    import transformers

    if not _zero_shared.knows_sharing(transformers.cache_utils):
        return Figure("this release has no layers with a window", healthy=True)
    sharing = _tiny.shared_model if hasattr(transformers, "Gemma4ForCausalLM") else _tiny.gemma3n_model
    model, how = sharing(**_tiny.PER_LAYER_INPUTS), {"max_new_tokens": 8, "do_sample": False}
    turn = model.generate(_tiny.prompt(), return_dict_in_generate=True, **how)
    ids = torch.cat([turn.sequences, _tiny.prompt(5)], 1)
    expected = model.generate(ids, use_cache=False, **how)
    more = {"past_key_values": _zero_shared.held(turn), "assistant_model": copy.deepcopy(model)}
    different = int((model.generate(ids, **more, **how) != expected).sum())
    return Figure(different, healthy=different == 0)


PATCH = Patch(
    module=__name__,
    title="assisted generation from a cache that is handed in gives wrong tokens, or raises",
    targets=("transformers.generation.utils",),
    affects=("transformers>=4.56.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/generation/utils.py#L4072-L4078",
        "https://github.com/huggingface/transformers/pull/47447",
    ),
    measures="tokens unlike those without a cache, of 33 (right: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
