"""GIT cannot be trained with frozen embeddings and checkpointing, and changes ``inputs_embeds``.

Symptom
-------
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation`` is raised in
training with frozen embeddings after ``enable_input_require_grads()``. peft calls this for gradient
checkpointing, and ``gradient_checkpointing_enable()`` calls it too. A caller that passes ``inputs_embeds``
gets no error, but its tensor is changed: a second call with it gives other logits. In the canary's random
model they differ by 0.11.

Cause
-----
``GitEmbeddings`` adds the position embeddings to the embeddings of the tokens in place. PyTorch refuses that
for a leaf of the graph, which the output of frozen embeddings is after ``enable_input_require_grads()``.

Repair
------
The position embeddings are added to a copy, if the caller passed the embeddings or if they are such a leaf.
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
    from transformers import GitConfig, GitForCausalLM

    config = GitConfig(**_inputs_changed.TEXT, vision_config=_inputs_changed.VISION)
    return _tiny._seeded(GitForCausalLM, config), {"pixel_values": _inputs_changed.pixels()}  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="GIT changes inputs_embeds in place, which fails under checkpointing with frozen embeddings",
    target="transformers.models.git.modeling_git",
    line=110,
    affects="transformers>=4.50.0",
    holders=("GitEmbeddings",),
    writes="embeddings +=",
    table=lambda embeddings: embeddings.word_embeddings,
    canary=canary,
).patch()
