"""The argument ``past_key_values`` of transformers, which is called ``cache`` from 5.24.0 on."""

from __future__ import annotations

import inspect

OLD, NEW = "past_key_values", "cache"


def cache_name() -> str | None:
    """The name of the argument that holds the cache in transformers; None if it has neither name."""
    from transformers import GenerationMixin

    named = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return next((name for name in (NEW, OLD) if name in named), None)
