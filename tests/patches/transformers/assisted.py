"""Assisted generation on tiny models with a window of 8: what is generated, and what guesses."""

from __future__ import annotations

import copy

import torch
import transformers
from shared_kv import MODELS

from zoo_hooks.patches.transformers import _tiny

EOS = 79
HOW = {"max_new_tokens": 16, "do_sample": False, "suppress_tokens": [EOS]}


def gemma3():
    """A Gemma-3 as released: its config says nothing of sharing."""
    shape = {**_tiny.TEXT, **_tiny._layers(4, 0), "eos_token_id": EOS}
    del shape["num_kv_shared_layers"]
    return _tiny._seeded(transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(**shape))


def mistral():
    """Every layer has a window."""
    shape = {**_tiny.TEXT, "num_hidden_layers": 2, "eos_token_id": EOS}
    return _tiny._seeded(transformers.MistralForCausalLM, transformers.MistralConfig(**shape))


SORTS = {
    "gemma3": gemma3,
    "mistral": mistral,
    "31b": lambda: _tiny.unshared_model(eos_token_id=EOS),
    "e2b": lambda: MODELS["gemma4" if "gemma4" in MODELS else "gemma3n"](eos_token_id=EOS),
}


def noisy(model):
    """A draft model that guesses some tokens and not others."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for weight in other.parameters():
            weight.data *= 1 + 0.3 * torch.randn_like(weight)
    return other


ASSISTANTS = {
    "same": lambda model: {"assistant_model": copy.deepcopy(model)},
    "noisy": lambda model: {"assistant_model": noisy(model)},
    "lookup": lambda _: {"prompt_lookup_num_tokens": 3},
}
