"""Gemma-4's audio attention fails under float16 autocast.

Symptom
-------
A forward with audio raises ``RuntimeError: value cannot be converted to type at::Half without overflow``
under ``torch.autocast(dtype=torch.float16)``. ``Trainer(fp16=True)`` runs the model under this autocast.

Cause
-----
``Gemma4AudioAttention.forward`` is written to compute its logits in float32, but autocast runs their matrix
products in float16. Masked logits are then filled with ``config.attention_invalid_logits_value``. This
value, -1e9, is outside the range of float16.

On CPUs the layers fail even earlier. They clamp float16 hidden states to a ``gradient_clipping`` of 1e10.
Upstream lowers this limit for float16 weights only, and here the weights are float32.

Repair
------
``_rel_shift`` computes one of the two terms of the logits. It now returns float32 where it would return
float16, so the sum is float32, as without autocast.

While float16 autocast is on, ``gradient_clipping`` of the layers reads as at most 65504, which is also
upstream's limit for float16 weights. The config is not changed. Without autocast, and in bfloat16, nothing
changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _calls, _known
from zoo_hooks.patches.transformers import _tiny

DEVICES = ("cuda", "cpu", "mps", "xpu")
LIMIT, LARGEST = "gradient_clipping", 65504.0
MASKED, ROUNDED = 9.00390625, 9.0  # in float32 and in float16
HEALTHY = 0.02
HELPERS = ("_rel_shift", "_convert_to_block", "_extract_block_context")
KNOWN = {
    "81f3ebe9b481": Verdict.AFFECTED,  # 5.5.0 to 5.10.1
    "ead209debcb3": Verdict.AFFECTED,  # 5.12.1 to 5.19.0
    "ed3951e905ee": Verdict.AFFECTED,  # 5.20.0 to 5.24.0
}


def probe(module: ModuleType) -> Verdict:
    attention = module.Gemma4AudioAttention
    if not all(hasattr(attention, name) for name in HELPERS):
        return Verdict.UNKNOWN
    return _known.verdict(KNOWN, *_parts(module)) or _run(module)


def _parts(module: ModuleType) -> list[Any]:
    """What the verdict depends on: first what the repair wraps."""
    return [getattr(module.Gemma4AudioAttention, name) for name in (*HELPERS, "forward")]


def _run(module: ModuleType) -> Verdict:
    torch, attention = module.torch, module.Gemma4AudioAttention

    def project(states: Any) -> Any:
        return states

    project.linear = SimpleNamespace(weight=torch.ones(1, device="cpu"))  # type: ignore[attr-defined]
    stand_in = SimpleNamespace(
        config=SimpleNamespace(attention_invalid_logits_value=MASKED),
        num_heads=1, head_dim=1, chunk_size=2, context_size=2, max_past_horizon=0, max_future_horizon=0,
        q_scale=1.0, k_scale=1.0, per_dim_scale=torch.ones(1, device="cpu"),
        softcap=torch.tensor(50.0, device="cpu"), q_proj=project, k_proj=project, v_proj=project,
        relative_k_proj=project, post=project,
    )  # fmt: skip
    for name in HELPERS:
        setattr(stand_in, name, getattr(attention, name).__get__(stand_in))
    logits: list[Any] = []

    def softmax(given: Any, *_: Any, **__: Any) -> Any:
        logits.append(given)
        return given

    mask = torch.tensor([True, False], device="cpu").expand(1, 1, 1, 2, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.float16), _calls.in_place_of_torchs(softmax=softmax):
        zeros = torch.zeros(1, 2, 1, device="cpu")
        attention.forward(stand_in, zeros, torch.zeros(1, 1, device="cpu"), mask)
    masked = max(one.max().item() for one in logits) if len(logits) == 1 else None
    if masked == MASKED:
        return Verdict.FIXED
    return Verdict.AFFECTED if masked == ROUNDED else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    torch = module.torch
    half, enabled, dtype = torch.float16, torch.is_autocast_enabled, torch.get_autocast_dtype

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def rel_shift(self: Any, *args: Any, **kwargs: Any) -> Any:
            shifted = original(self, *args, **kwargs)
            return shifted.float() if shifted.dtype is half else shifted

        return rel_shift

    def limited(value: Any) -> Any:
        for device in DEVICES:
            if enabled(device) and dtype(device) is half:
                return min(value, LARGEST)
        return value

    changes.wrap(module.Gemma4AudioAttention, "_rel_shift", make)
    for part in (module.Gemma4AudioFeedForward, module.Gemma4AudioLightConv1d, module.Gemma4AudioLayer):
        changes.replace(part, LIMIT, _calls.attribute(LIMIT, limited))


def canary() -> Figure:
    import torch

    tower = _tiny.multimodal_model().model.audio_tower
    given = _tiny.audio_inputs()
    features = given["input_features"], given["input_features_mask"]
    with torch.no_grad():
        expected = tower(*features).last_hidden_state
        with torch.autocast("cpu", dtype=torch.float16):
            error = (tower(*features).last_hidden_state - expected).norm() / expected.norm()
    return Figure(round(float(error), 4), healthy=bool(error < HEALTHY))


PATCH = Patch(
    module=__name__,
    title="Gemma-4's audio attention fails under float16 autocast",
    severity="crash",
    symptoms=("value cannot be converted to type *Half without overflow @ modeling_gemma4",),
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.5.0/src/transformers/models/gemma4/modeling_gemma4.py#L303-L306",
    ),
    measures="relative error of the audio tower, float16 autocast against float32 (expected: < 0.02)",
    probe=probe,
    repair=repair,
    canary=canary,
)
