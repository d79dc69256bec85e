"""Gemma-4's vision pooler overflows float16, so answers about images are padding or noise.

Symptom
-------
Gemma-4 26B-A4B and 31B in float16 answer with padding or noise if the prompt has images. Training on images
has a loss of NaN from its first step. Text is not affected.

Cause
-----
``Gemma4VisionPooler.forward`` multiplies the pooled values by ``sqrt(hidden_size)``, which is 33.9 in these
models, in the dtype of its input. The vision towers of these models give values of 2300. The product of
78000 overflows float16. The standardization that would bring the values back into range comes later.

Repair
------
The repair does what upstream does since 5.10.1, but for float16 only. The vision model pools and
standardizes the output of its encoder in float32, and casts the result back to float16. In models that do
not standardize, values that still overflow become infinite, as in upstream.

Other dtypes are computed as before. The same holds for a pooler that is called directly, and for a vision
model whose encoder or pooler has a hook or its own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _known
from zoo_hooks.patches.transformers import _half_mlp, _linear_map, _tiny

KNOWN = {
    "73251e77ba02": Verdict.AFFECTED,  # 5.5.0 to 5.9.0
    "a78b03a1cade": Verdict.FIXED,  # 5.10.1 to 5.17.0
    "04d4a10aefc9": Verdict.FIXED,  # 5.18.0 to 5.22.2
    "5ca5e7b609d9": Verdict.FIXED,  # 5.23.0 to 5.24.0
}


def probe(module: ModuleType) -> Verdict:
    return _known.verdict(KNOWN, *_parts(module), repaired=2) or _run(module)


def _parts(module: ModuleType) -> list[Any]:
    """What the verdict depends on: first what the repair wraps."""
    pooler = [part for part in vars(module.Gemma4VisionPooler).values() if isinstance(part, FunctionType)]
    return [module.Gemma4VisionEncoder.forward, module.Gemma4VisionModel.forward, *pooler]


def _run(module: ModuleType) -> Verdict:
    """Pool four patches of 2300 at hidden size 1152; if that is infinite, in a model that standardizes."""
    torch = module.torch
    half = {"dtype": torch.float16, "device": "cpu"}
    states = torch.full((1, 4, 1), 2300.0, **half)
    positions = torch.tensor([[[0, 0], [1, 0], [0, 1], [1, 1]]], device="cpu")
    config = SimpleNamespace(hidden_size=1152, pooling_kernel_size=2, num_hidden_layers=0, standardize=True)
    config._attn_implementation = "eager"  # noqa: SLF001
    pooler = module.Gemma4VisionPooler(config)
    pooled = pooler(states, positions, (positions < 0).all(-1), 1)[0].item()
    if pooled != float("inf"):
        return Verdict.FIXED if abs(pooled / 1152**0.5 - 2300) < 1 else Verdict.UNKNOWN
    encoder = _assembled(module.Gemma4VisionEncoder, config=config, layers=[], rotary_emb=lambda *_: None)
    model = _assembled(module.Gemma4VisionModel, config=config, encoder=encoder, pooler=pooler)
    model.patch_embedder = lambda *_: states
    model.std_bias, model.std_scale = torch.full((1,), 40000.0, **half), torch.full((1,), 2.0**-12, **half)
    standardized = model(states, positions)[0].item()
    if standardized == pooled:
        own = all(_half_mlp.is_upstreams(type(part).forward) for part in (encoder, model))
        return Verdict.AFFECTED if own else Verdict.UNKNOWN
    right = (2300 * 1152**0.5 - 40000) / 2**12
    return Verdict.FIXED if abs(standardized - right) < 0.01 else Verdict.UNKNOWN  # noqa: PLR2004


def _assembled(kind: Any, **parts: Any) -> Any:
    """A module of which only these parts exist."""
    import torch

    made = kind.__new__(kind)
    torch.nn.Module.__init__(made)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def repair(module: ModuleType, changes: Changes) -> None:
    half, pooling = module.torch.float16, module.Gemma4VisionPooler.forward
    is_untouched = _linear_map.is_untouched

    def encoder(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, *args: Any, zoo_hooks_widened: Any = None, **kwargs: Any) -> Any:
            output = original(self, *args, **kwargs)
            if zoo_hooks_widened is not None and output.last_hidden_state.dtype is half:
                zoo_hooks_widened.append(True)
                _widen(output)
            return output

        return forward

    changes.wrap(module.Gemma4VisionEncoder, "forward", encoder)
    widening = module.Gemma4VisionEncoder.forward.__code__

    def model(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            encoder, pooler = self.encoder, self.pooler
            if (
                type(encoder).forward.__code__ is not widening
                or type(pooler).forward is not pooling
                or not (is_untouched(encoder) and is_untouched(pooler))
            ):
                return original(self, *args, **kwargs)
            widened: list[bool] = []  # the vision model hands its keywords on to the encoder
            output = original(self, *args, zoo_hooks_widened=widened, **kwargs)
            return _narrowed(self, output, half) if widened else output

        return forward

    changes.wrap(module.Gemma4VisionModel, "forward", model)


def _widen(output: Any) -> None:
    output.last_hidden_state = output.last_hidden_state.float()


def _narrowed(model: Any, output: Any, half: Any) -> Any:
    if model.config.standardize and model.std_bias.dtype is not half:
        return output  # such buffers give float32 in any case
    return _exchange(output, output[0], output[0].to(half))


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

    tower = _tiny.multimodal_model().model.vision_tower
    tower.config.standardize = True
    tower.pooler.root_hidden_size = 1152**0.5
    tower.patch_embedder.position_embedding_table.data *= 1200
    tower.register_buffer("std_bias", torch.full((32,), 40000.0))
    tower.register_buffer("std_scale", torch.full((32,), 1 / 40000))
    given = _tiny.image_inputs()
    with torch.no_grad():
        seen = tower.half()(given["pixel_values"].half(), given["image_position_ids"]).last_hidden_state
    lost = int((~seen.isfinite()).sum())
    return Figure(lost, healthy=lost == 0)


PATCH = Patch(
    module=__name__,
    title="Gemma-4's vision pooler overflows float16",
    severity="silent wrong result",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.10.1",),
    links=(
        "https://github.com/huggingface/transformers/pull/46277",
        "https://github.com/vllm-project/vllm/issues/40290",
    ),
    measures="non-finite values, of 128 that a vision model standardizes in float16 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
