"""Gemma-4 in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training Gemma-4 on one text at a time is not causal: each token attends to the
tokens that it should predict. No error is raised. The loss is wrong: 4.86 instead of 4.40 in a random
model. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. Since pull request 1523, ``Model.__call__`` passes it to every layer,
in place of the causal mask and the sliding-window mask. Before that pull request, gemma4 ignored the mask.
The trainers make an exception only for gemma4_unified, since pull request 1392.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
A mask with the shape of ``input_ids`` is treated as a padding mask. Without a KV cache, each layer gets its
own causal or sliding-window mask, and no token attends to padding, neither on the left nor on the right.
Each token always attends to itself. With a cache, such a mask is ignored, as it was before 0.6.5. Other
masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _causal, _padding, _tiny

_MASK, _CACHE = 2, 3  # among the arguments after self


class _Model(SimpleNamespace):
    """Stands in for a language model, for the probe: keeps the mask that it is called with."""

    def __call__(self, *_: Any, mask: Any = None, **__: Any) -> None:
        self.seen.append(mask)


def probe(module: ModuleType) -> Verdict:
    if not isinstance(getattr(module, "Model", None), type):
        return Verdict.UNKNOWN
    tokens = mask = SimpleNamespace(shape=(1, 1))
    language_model = _Model(model=SimpleNamespace(layers=[]), seen=[])
    embedded = SimpleNamespace(inputs_embeds=None, per_layer_inputs=None)
    model = SimpleNamespace(language_model=language_model, get_input_embeddings=lambda **_: embedded)
    module.Model.__call__(model, tokens, None, mask)
    if len(language_model.seen) != 1:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if language_model.seen[0] is mask else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            mask = args[_MASK] if len(args) > _MASK else kwargs.get("mask")
            tokens = args[0] if args else kwargs.get("input_ids")
            shape = getattr(mask, "shape", None)  # the word "causal" has none
            if shape is None or shape != getattr(tokens, "shape", None):
                return original(self, *args, **kwargs)
            if len(args) > _MASK:
                args = (*args[:_MASK], None, *args[_MASK + 1 :])
            else:
                kwargs["mask"] = None
            if (args[_CACHE] if len(args) > _CACHE else kwargs.get("cache")) is None:
                self = _padding.masked(self, mask)
            return original(self, *args, **kwargs)

        return call

    changes.wrap(module.Model, "__call__", make)


def canary() -> Figure:
    return _causal.figure(_model())


def _model() -> Any:
    return _tiny.gemma4_with_towers()


PATCH = Patch(
    module=__name__,
    title="Gemma-4 in mlx-vlm uses the padding mask as attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.gemma4",),
    targets=("mlx_vlm.models.gemma4.gemma4",),
    affects=("mlx-vlm>=0.6.5",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/gemma4/gemma4.py",
        "https://github.com/Blaizzy/mlx-vlm/pull/1392",
        "https://github.com/Blaizzy/mlx-vlm/pull/1523",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures=_causal.MEASURES,
    probe=probe,
    repair=repair,
    canary=canary,
)
