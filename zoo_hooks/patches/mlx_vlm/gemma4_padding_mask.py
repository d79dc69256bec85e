"""Gemma-4 in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training Gemma-4 with mlx-vlm's trainers on one text at a time is not causal: every token sees those that
it should predict. The loss is off (4.86 against 4.40 in a random model), and no error is raised. With two
texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``Model.__call__`` hands it on as the mask of every layer, where it stands for the causal mask
and the sliding window, since pull request 1523. The trainers make an exception of gemma4_unified only, since
pull request 1392, before which gemma4 took no notice of the mask.

No issue of mlx-vlm's is known; docs/upstream-reports.md holds a report.

Repair
------
A mask of the shape of ``input_ids`` is taken for what it is: without a cache each layer gets its own
causal or sliding mask, and no padding is attended to, on either side; a token always sees itself. With a
cache such a mask is left out, as it was before 0.6.5. Other masks, and None, pass through. In a batch of
as many rows as tokens a mask of [length, length] cannot be told from padding, and is taken for it: give
such a mask four dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _padding, _tiny

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
    import mlx.core as mx

    model, tokens = _tiny.gemma4_with_towers(), _tiny.prompt(12, batch=2)
    ones = mx.ones((1, 12), dtype=mx.int32)
    other = mx.concatenate([tokens[:1, :-1], tokens[:1, -1:] + 1], axis=1)
    right, first = model(tokens[:1]).logits, model(tokens[:1], None, ones).logits
    moved = abs(first - model(other, None, ones).logits)[:, :-1].max().item()
    wrong = abs(first - right).max().item()
    padded = mx.concatenate([ones, mx.arange(12)[None] < 8])  # noqa: PLR2004
    batch = model(tokens, None, padded).logits
    alone = max(
        abs(batch[:1] - right).max().item(),
        abs(batch[1:, :8] - model(tokens[1:, :8]).logits).max().item(),
    )
    healthy = moved == 0 and max(wrong, alone) < _tiny.SMALL
    return Figure(f"{moved:.3g}, {wrong:.3g}, {alone:.3g}", healthy=healthy)


PATCH = Patch(
    module=__name__,
    title="Gemma-4 in mlx-vlm takes a batch's padding mask for its attention mask, so it is not causal",
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
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
