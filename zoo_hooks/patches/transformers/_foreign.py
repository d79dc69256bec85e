"""Shared by the patches for code of others: where its classes are seen, and Llamas as people write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches.transformers import _cache_name, _tiny

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.5,
}


def every_subclass(base: Any, mind: Callable[[Any], None], changes: Changes) -> None:
    """Call ``mind`` with each class that is derived from ``base``, now or when it is made."""

    def minding(original: Callable[..., None]) -> Callable[..., None]:
        def init_subclass(cls: Any, **kwargs: Any) -> None:
            original(cls, **kwargs)
            mind(cls)

        return init_subclass

    changes.wrap(base, "__init_subclass__", minding)
    for kind in subclasses(base):
        mind(kind)


def subclasses(base: Any) -> Iterator[Any]:
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses(kind)


def handed_new_name() -> Verdict:
    """Ask what transformers hands on: AFFECTED if that is the new name, and FIXED if an old one."""
    from transformers.generation.utils import GenerationMixin

    name = _cache_name.taken(GenerationMixin.prepare_inputs_for_generation)
    if name is None:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if name == _cache_name.NEW else Verdict.FIXED


def bare(kind: Any) -> Any:
    """A module of a class without its constructor's work."""
    from torch.nn import Module

    module = kind.__new__(kind)
    Module.__init__(module)
    return module


def llama(kind: Any = None, **config: Any) -> Any:
    """A causal Llama of two layers, or of a class that is derived from it; its weights are large."""
    import transformers

    config_class = getattr(kind, "config_class", None) or transformers.LlamaConfig
    return _tiny._seeded(kind or transformers.LlamaForCausalLM, config_class(**SHAPE, **config))  # noqa: SLF001


def generate(model: Any, **how: Any) -> Any:
    """Eight greedy tokens after a prompt of twelve."""
    import torch

    ids = _tiny.prompt()
    greedy: dict[str, Any] = {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**greedy, **how})


def wrong(model: Any, **how: Any) -> int:
    """Count the tokens that are not those of a plain Llama without a cache."""
    return int((generate(model, **how) != generate(llama(), use_cache=False)).sum())


def dropping() -> Any:
    """A class of a model as people write them, that takes the cache by its old name and drops the rest."""
    from transformers import LlamaForCausalLM
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class Dropping(LlamaForCausalLM):  # type: ignore[misc]
        def forward(
            self,
            input_ids: Any = None,
            attention_mask: Any = None,
            position_ids: Any = None,
            past_key_values: Any = None,
            use_cache: Any = None,
            **_: Any,
        ) -> Any:
            known = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache}
            output = self.model(input_ids, past_key_values=past_key_values, **known)
            logits = self.lm_head(output.last_hidden_state)
            return CausalLMOutputWithPast(logits=logits, past_key_values=output.past_key_values)

    return Dropping


def figure(count: int) -> Figure:
    """Of what should be none."""
    return Figure(count, healthy=count == 0)


def attention() -> Any:
    """A class of attention as people write it, that takes the place of a Llama's and has its weights."""
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    class Attention(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(
            self,
            hidden_states: Any,
            position_embeddings: Any = None,
            past_key_values: Any = None,
            **kwargs: Any,
        ) -> Any:
            cache = kwargs.get("past_key_value", past_key_values)  # as it was called before 4.56
            inner, shape = self.inner, hidden_states.shape[:-1]
            projections = (inner.q_proj, inner.k_proj, inner.v_proj)
            query, key, value = (
                project(hidden_states).view(*shape, -1, inner.head_dim).transpose(1, 2)
                for project in projections
            )
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
            if cache is not None:
                key, value = cache.update(key, value, inner.layer_idx)
            key, value = (each.repeat_interleave(2, 1) for each in (key, value))
            attend = torch.nn.functional.scaled_dot_product_attention
            output = attend(query, key, value, is_causal=query.shape[2] > 1).transpose(1, 2)
            return inner.o_proj(output.reshape(*shape, -1)), None

    return Attention


def layered() -> Any:
    """A model as people write it, with layers of their own that transformers checkpoints, and a cache."""
    import transformers
    from torch import nn
    from transformers.cache_utils import DynamicCache
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.models.llama import modeling_llama

    name: Any = _cache_name.taken(modeling_llama.LlamaAttention.forward) or "past_key_value"

    class Layer(GradientCheckpointingLayer):  # type: ignore[misc]
        def __init__(self, config: Any, index: int) -> None:
            super().__init__()
            self.attention = modeling_llama.LlamaAttention(config, index)

        def forward(self, hidden: Any, position_embeddings: Any, past_key_values: Any = None) -> Any:
            cache = {name: past_key_values}
            attended = self.attention(
                hidden, position_embeddings=position_embeddings, attention_mask=None, **cache
            )
            return hidden + attended[0]

    class Layered(transformers.PreTrainedModel):  # type: ignore[misc]
        config_class = transformers.LlamaConfig
        supports_gradient_checkpointing = True

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            self.rotary = modeling_llama.LlamaRotaryEmbedding(config)
            self.layers = nn.ModuleList([Layer(config, index) for index in range(config.num_hidden_layers)])
            self.head = nn.Linear(config.hidden_size, config.vocab_size)
            self.post_init()

        def forward(self, input_ids: Any) -> Any:
            import torch

            hidden = self.embed_tokens(input_ids)
            positions = self.rotary(hidden, torch.arange(input_ids.shape[1])[None])
            cache = DynamicCache()
            for layer in self.layers:
                hidden = layer(hidden, positions, past_key_values=cache)
            return self.head(hidden)

    return llama(Layered, attn_implementation="eager")
