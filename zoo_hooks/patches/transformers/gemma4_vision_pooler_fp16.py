"""Gemma-4's vision pooler overflows float16.

Symptom
-------
Gemma-4 26B-A4B and 31B in float16 answer to images with padding or noise, and training on images
has a loss of NaN from its first step. Text is right.

Cause
-----
``Gemma4VisionPooler.forward`` multiplies what it has pooled by ``sqrt(hidden_size)``, 33.9 there, in
the dtype of its input. The towers of these models give values of 2300, and 78000 does not fit
float16. The standardizing that would have brought the values back comes after that.

Repair
------
As upstream does it since 5.10.1, but for float16 only: the pooler computes and returns float32, the
vision model standardizes that, and casts its output back to float16. What does not fit even then,
in models that do not standardize, saturates. Other dtypes are computed as before.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tiny

LARGEST = 65504.0


def probe(module: ModuleType) -> Verdict:
    torch = module.torch
    pooler = module.Gemma4VisionPooler(SimpleNamespace(hidden_size=1152))
    pooled, _ = pooler(
        hidden_states=torch.full((1, 1, 1), 2300.0, dtype=torch.float16, device="cpu"),
        pixel_position_ids=torch.zeros((1, 1, 2), dtype=torch.int64, device="cpu"),
        padding_positions=torch.zeros((1, 1), dtype=torch.bool, device="cpu"),
        output_length=1,
    )
    scaled = pooled.item()
    if scaled == float("inf"):
        return Verdict.AFFECTED
    return Verdict.FIXED if abs(scaled / 1152**0.5 - 2300) < 1 else Verdict.UNKNOWN


class _Seen:
    """What the encoder of one vision model put out in one forward."""

    dtype: Any = None

    def note(self, states: Any) -> None:
        self.dtype = states.dtype


def repair(module: ModuleType, changes: Changes) -> None:
    half = module.torch.float16

    def pooler(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            if hidden_states.dtype is half:
                hidden_states = hidden_states.float()
            return original(self, hidden_states, *args, **kwargs)

        return forward

    def encoder(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, *args: Any, zoo_hooks_seen: Any = None, **kwargs: Any) -> Any:
            output = original(self, *args, **kwargs)
            if zoo_hooks_seen is not None:
                zoo_hooks_seen.note(output[0])
            return output

        return forward

    def model(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen = _Seen()  # the vision model hands its keywords on to the encoder
            output = original(self, *args, zoo_hooks_seen=seen, **kwargs)
            return _narrowed(self, output, half) if seen.dtype is half else output

        return forward

    changes.wrap(module.Gemma4VisionPooler, "forward", pooler)
    changes.wrap(module.Gemma4VisionEncoder, "forward", encoder)
    changes.wrap(module.Gemma4VisionModel, "forward", model)


def _narrowed(model: Any, output: Any, half: Any) -> Any:
    wide = output[0]
    if model.config.standardize and model.std_bias.dtype is not half:
        return output  # such buffers give float32 in any case
    return _exchange(output, wide, wide.clamp(-LARGEST, LARGEST).to(half))


def _exchange(output: Any, old: Any, new: Any) -> Any:
    if output is old:
        return new
    if isinstance(output, tuple):
        return tuple([_exchange(value, old, new) for value in output])
    if isinstance(output, dict):  # the upstream's own kind of it
        for key in list(output):
            output[key] = _exchange(output[key], old, new)
    return output


def canary() -> Figure:
    import torch

    pooler = _tiny.multimodal_model().model.vision_tower.pooler
    values = torch.linspace(-2300, 2300, 16).reshape(1, 16, 1).expand(1, 16, 1152)
    pooler.root_hidden_size = 1152**0.5
    positions = _tiny.image_inputs()["image_position_ids"]
    pooled, _ = pooler(values.half(), positions, (positions == -1).all(-1), 16)
    lost = int((~pooled.isfinite()).sum())
    return Figure(lost, healthy=lost == 0)


PATCH = Patch(
    module=__name__,
    title="Gemma-4's vision pooler overflows float16",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.10.1",),
    links=(
        "https://github.com/huggingface/transformers/pull/46277",
        "https://github.com/vllm-project/vllm/issues/40290",
    ),
    measures="values that are not finite, of 18432 pooled at hidden size 1152 (right: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
