"""RoFormer cannot be trained as a decoder with gradient checkpointing.

Symptom
-------
Training ``RoFormerForCausalLM``, or another RoFormer with ``is_decoder=True``, with gradient checkpointing
and the default ``use_cache=True`` fails in the backward pass, with ``labels`` too: ``RuntimeError: The size
of tensor a (24) must match the size of tensor b (12) at non-singleton dimension 3``. On 5.10.1 and 5.12.1 the
first number is 32, and checkpointing that is not reentrant raises ``CheckpointError``: "Recomputed values for
the following tensors have different metadata".

Cause
-----
``RoFormerModel`` makes a cache, and ``RoFormerEncoder`` passes it to its layers by position.
``GradientCheckpointingLayer`` takes it away from a layer that is computed again, but only if it comes by
keyword. Up to 4.57 the encoder makes the cache itself, and none under checkpointing.

Repair
------
In training ``RoFormerLayer`` gets the cache by keyword. Under gradient checkpointing upstream takes it away
then and warns, as it does in other models, and the cache that a step returns is empty. Nothing else changes.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.transformers import _inputs_changed, _positional_cache, _tiny


def small_model() -> Any:
    """A model, and nothing besides tokens."""
    from transformers import RoFormerConfig, RoFormerForCausalLM

    config = RoFormerConfig(**_inputs_changed.TEXT, is_decoder=True, embedding_size=32)
    return _tiny._seeded(RoFormerForCausalLM, config), {}  # noqa: SLF001


PATCH = _positional_cache.Row(
    module=__name__,
    title="RoFormer cannot be trained as a decoder with gradient checkpointing",
    target="transformers.models.roformer.modeling_roformer",
    name="RoFormer",
    line=437,
    affects="transformers>=5.0.0",
    make=small_model,
).patch()
