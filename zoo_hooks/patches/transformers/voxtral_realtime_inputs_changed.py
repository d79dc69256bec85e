"""Voxtral Realtime cannot be trained with frozen embeddings and checkpointing, and changes ``inputs_embeds``.

Symptom
-------
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation`` is raised after
``enable_input_require_grads()``, which peft calls for gradient checkpointing. Passing ``inputs_embeds`` that
require gradients raises it too. A caller that passes ``inputs_embeds`` of another kind gets no error, but its
tensor is changed: the audio is added to it, and a second call with it adds the audio again.

Cause
-----
The model adds the audio to the embeddings of the tokens in place. PyTorch refuses that for a tensor that is a
leaf of the graph. The output of frozen embeddings becomes one by ``enable_input_require_grads()``.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The model adds the audio to a copy of the embeddings. For this, zoo-hooks embeds the tokens before the model's
own ``forward`` runs, which uses ``input_ids`` for nothing else.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

IDS, EMBEDS = "input_ids", "inputs_embeds"
HOLDERS = ("VoxtralRealtimeModel", "VoxtralRealtimeForConditionalGeneration")
"""Newer releases have both, and the first adds."""


def probe(module: ModuleType) -> Verdict:
    forward = inspect.unwrap(_holder(module).forward)
    if EMBEDS not in forward.__code__.co_varnames:
        return Verdict.UNKNOWN
    adds = any(map(_adds_in_place, dis.get_instructions(forward)))
    return Verdict.AFFECTED if adds else Verdict.FIXED


def _holder(module: ModuleType) -> Any:
    return getattr(module, HOLDERS[0], None) or getattr(module, HOLDERS[1])


def _adds_in_place(one: dis.Instruction) -> bool:
    return one.opname == "INPLACE_ADD" or (one.opname, one.argrepr) == ("BINARY_OP", "+=")


def repair(module: ModuleType, changes: Changes) -> None:
    holder = _holder(module)
    place = [*inspect.signature(holder.forward).parameters].index(EMBEDS) - 1
    changes.wrap(holder, "forward", lambda original: _copying(original, place))


def _copying(original: Callable[..., Any], place: int) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids = args[0] if args else kwargs.get(IDS)
        embeds = args[place] if len(args) > place else kwargs.get(EMBEDS)
        if (ids is None) != (embeds is None):
            embeds = (self.get_input_embeddings()(ids) if embeds is None else embeds).clone()
            if args:
                args = (None, *args[1:])
            else:
                kwargs[IDS] = None
            if len(args) > place:
                args = (*args[:place], embeds, *args[place + 1 :])
            else:
                kwargs[EMBEDS] = embeds
        return original(self, *args, **kwargs)

    return forward


def canary() -> Figure:
    """Call a model twice with the same embeddings."""
    import torch

    from zoo_hooks.patches.transformers import _tiny

    model = small_model()
    frames = torch.linspace(-1, 1, 16 * 64).sin().view(1, 16, 64)
    embeds = model.get_input_embeddings()(_tiny.prompt(8)).detach()
    with torch.no_grad():
        first, second = (
            model(inputs_embeds=embeds, input_features=frames, num_delay_tokens=4, use_cache=False).logits
            for _ in range(2)
        )
    error = float((first - second).abs().max())
    return Figure(round(error, 5), healthy=error == 0)


def small_model() -> Any:
    from transformers import VoxtralRealtimeConfig, VoxtralRealtimeForConditionalGeneration

    from zoo_hooks.patches.transformers import _tiny

    text = {key: value for key, value in _tiny.TEXT.items() if key not in {"sliding_window", "eos_token_id"}}
    audio = {**text, "num_key_value_heads": 4, "num_mel_bins": 16}
    config = VoxtralRealtimeConfig(
        text_config={**text, "num_hidden_layers": 2}, audio_config={**audio, "num_hidden_layers": 2}
    )
    return _tiny._seeded(VoxtralRealtimeForConditionalGeneration, config)  # noqa: SLF001


PATCH = Patch(
    module=__name__,
    title="Voxtral Realtime changes inputs_embeds in place, which fails under checkpointing of adapters",
    severity="silent wrong result",
    symptoms=(
        (
            "a leaf Variable that requires grad is being used in an in-place operation "
            "@ transformers.models.voxtral_realtime"
        ),
    ),
    targets=("transformers.models.voxtral_realtime.modeling_voxtral_realtime",),
    affects=("transformers>=5.2.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/voxtral_realtime/modeling_voxtral_realtime.py#L973",
    ),
    measures="difference of the logits of two calls with the same embeddings (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
