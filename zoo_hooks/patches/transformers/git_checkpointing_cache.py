"""GIT cannot be trained with gradient checkpointing if the loss is computed outside the model.

Symptom
-------
Training ``GitForCausalLM`` or ``GitModel`` with gradient checkpointing and the default ``use_cache=True``
fails in the backward pass with ``RuntimeError: The size of tensor a (26) must match the size of tensor b (13)
at non-singleton dimension 3``. The first number is twice the second. With ``labels`` the model turns the
cache off itself, and there is no error.

Cause
-----
``GitEncoder`` passes the cache to its layers by position. ``GradientCheckpointingLayer`` takes it away from a
layer that is computed again, but only if it comes by keyword. Before 5.4.0 the encoder makes the cache
itself, and none under checkpointing.

Repair
------
In training ``GitLayer`` gets the cache by keyword. Under gradient checkpointing upstream takes it away
then and warns, as it does in other models, and the cache that a step returns is empty. Nothing else changes.
"""

from __future__ import annotations

from zoo_hooks.patches.transformers import _positional_cache, git_inputs_changed

PATCH = _positional_cache.Row(
    module=__name__,
    title="GIT cannot be trained with gradient checkpointing if the loss is computed outside the model",
    target="transformers.models.git.modeling_git",
    name="Git",
    line=313,
    affects="transformers>=5.4.0",
    make=git_inputs_changed.small_model,
).patch()
