"""CTRL changes ``inputs_embeds``, and cannot be trained with frozen embeddings that require gradients.

Symptom
-------
A caller that passes ``inputs_embeds`` finds its tensor multiplied by the root of the width: a second call
with it gives other logits, without an error. In the canary's random model they differ by 0.44. After
``enable_input_require_grads()``, training with frozen embeddings raises
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation``.

Cause
-----
The model scales the embeddings of the tokens in place. PyTorch refuses that for a leaf of the graph, which
the output of frozen embeddings is after ``enable_input_require_grads()``.

Repair
------
A copy is scaled, if the caller passed the embeddings or if they are such a leaf.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.model import Figure
from zoo_hooks.patches.transformers import _inputs_changed, _tiny


def canary() -> Figure:
    model, more = small_model()
    return _inputs_changed.figure(model, **more)


def small_model() -> Any:
    """A model and, besides tokens, its inputs."""
    from transformers import CTRLConfig, CTRLLMHeadModel

    config = CTRLConfig(vocab_size=80, n_positions=32, n_embd=32, dff=64, n_layer=2, n_head=4)
    return _tiny._seeded(CTRLLMHeadModel, config), {}  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="CTRL scales the inputs_embeds of its caller in place",
    target="transformers.models.ctrl.modeling_ctrl",
    line=316,
    affects="transformers>=4.50.0",
    holders=("CTRLModel",),
    writes="inputs_embeds *=",
    table=lambda model: model.w,
    canary=canary,
).patch()
