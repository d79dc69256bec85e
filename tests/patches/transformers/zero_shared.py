"""Models and configs that share no K/V layers, for the tests of the two cache patches."""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.transformers import _tiny

DENSE: dict[str, Any] = {}
"""As Gemma-4 31B."""
A4B = _tiny.EXPERTS
"""As Gemma-4 26B-A4B: a mixture of experts. Gemma-3, before 5.5.0, ignores it."""


def model(shape: dict[str, Any]) -> Any:
    return _tiny.unshared_model(**shape)


def config(**values: Any) -> Any:
    return model(values).config


def generate(shape: dict[str, Any], **how: Any) -> Any:
    """Greedy decoding of 12 tokens after a prompt of 12."""
    return model(shape).generate(
        _tiny.prompt(), max_new_tokens=12, do_sample=False, return_dict_in_generate=True, **how
    )
