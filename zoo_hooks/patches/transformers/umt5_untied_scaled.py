"""UMT5 with an untied head wrongly multiplies its logits by ``d_model ** -0.5``.

Symptom
-------
This affects ``google/umt5-*`` and every other UMT5 whose config says ``tie_word_embeddings=False``. The
factor is 0.036 for umt5-base. There is no error. Greedy tokens are correct, but the loss, its gradients,
sampling and beam search are wrong. Releases 5.0.0 to 5.2.0 have another symptom. There, a checkpoint that
holds its embeddings once, as transformers 4 saves it, loads with random embeddings, and the loading report
says so.

Cause
-----
Logits must be scaled only if the head is tied to the embedding. The forward pass uses
``config.tie_word_embeddings`` to decide this. From 5.3.0 on, UMT5's config sets it to True, whatever the
checkpoint says, so that the embeddings of encoder and decoder are tied. T5 keeps the checkpoint's value as
``scale_decoder_outputs``; UMT5 does so from 5.24.0 on. Up to 5.2.0, the checkpoint's value overrides the
True of the config class, and nothing is tied.

Repair
------
As in 5.24.0, the config keeps the checkpoint's value as ``scale_decoder_outputs`` and always ties. If
``scale_decoder_outputs`` is False, the model's ``model_dim`` reads as 1. It is used for nothing but the
scale. A checkpoint that an affected release has saved says that its head is tied; the original value is
lost.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tiny

FLAG, TIED, DIM = "scale_decoder_outputs", "tie_word_embeddings", "model_dim"
MODEL = "UMT5ForConditionalGeneration"


def probe(module: ModuleType) -> Verdict:
    untied = module.UMT5Config(**{TIED: False})
    if hasattr(untied, FLAG):
        model = getattr(module, MODEL, None)
        reads = model is None or isinstance(vars(model).get(DIM), property)
        return Verdict.FIXED if reads or FLAG in _names(model) else Verdict.AFFECTED
    if TIED in inspect.signature(module.UMT5Config).parameters and not untied.tie_word_embeddings:
        return Verdict.FIXED
    # the model reads what the repair of the config writes
    return Verdict.UNKNOWN if hasattr(module, MODEL) else Verdict.AFFECTED


def _names(model: Any) -> set[str]:
    return {*inspect.unwrap(model.forward).__code__.co_names}


def repair(module: ModuleType, changes: Changes) -> None:
    if hasattr(module, MODEL):
        changes.replace(getattr(module, MODEL), DIM, property(_scale, _keep))
    else:
        made = "__post_init__" if "__post_init__" in vars(module.UMT5Config) else "__init__"
        changes.wrap(module.UMT5Config, made, _keeping)


def _keeping(original: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.scale_decoder_outputs = kwargs.get(FLAG, kwargs.get(TIED) is not False)
        self.tie_word_embeddings = True

    return make


def _scale(self: Any) -> Any:
    return self.__dict__[DIM] if getattr(self.config, FLAG, True) else 1


def _keep(self: Any, value: Any) -> None:
    self.__dict__[DIM] = value


def canary() -> Figure:
    """Loads a checkpoint as transformers 4 saves it: the embeddings once, and the head."""
    import torch
    from transformers import UMT5Config, UMT5ForConditionalGeneration

    shape = {"vocab_size": 80, "d_model": 64, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = _tiny._seeded(UMT5ForConditionalGeneration, UMT5Config(**shape, tie_word_embeddings=False))  # noqa: SLF001
    for part in (model.encoder, model.decoder):
        part.embed_tokens.weight = model.shared.weight
    model.lm_head.weight = torch.nn.Parameter(torch.linspace(-1, 1, 80 * 64).sin().view(80, 64))
    ids = {"input_ids": _tiny.prompt(), "decoder_input_ids": _tiny.prompt()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights = {name: value for name, value in model.state_dict().items() if "embed_tokens" not in name}
        import_module("safetensors.torch").save_file(
            weights, Path(folder, "model.safetensors"), {"format": "pt"}
        )
        config = {"model_type": "umt5", **shape, TIED: False}
        Path(folder, "config.json").write_text(json.dumps(config))
        loaded = UMT5ForConditionalGeneration.from_pretrained(folder)
        right = model.lm_head(model(**ids, output_hidden_states=True).decoder_hidden_states[-1])
        error = float((loaded(**ids).logits - right).norm() / right.norm())
    return Figure(round(error, 5), healthy=error < 1e-5)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="UMT5 with an untied head scales its logits as if the head were tied",
    severity="silent wrong result",
    targets=(
        "transformers.models.umt5.configuration_umt5",
        "transformers.models.umt5.modeling_umt5",
    ),
    affects=("transformers>=5.0.0,<5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/umt5/configuration_umt5.py#L75-L76",
    ),
    measures="relative error of the logits of a checkpoint with an untied head (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
