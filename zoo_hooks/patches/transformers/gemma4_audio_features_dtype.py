"""Gemma-4 raises on audio when its audio tower and its embeddings differ in dtype.

Symptom
-------
A forward with audio raises ``RuntimeError: masked_scatter_: expected self and source to have same dtypes
but got Float and Half``. This happens when the audio tower and the input embeddings differ in dtype: under
autocast, or with parts of the model in float32.

Cause
-----
``Gemma4Model.forward`` moves image and video features to the device and dtype of the input embeddings. It
moves audio features to the device only.

Repair
------
While ``forward`` runs, ``get_audio_features`` returns its features in the dtype of the input embeddings. It
receives the arguments that upstream passes, and so do overrides and wrappers of it. Code that calls
``get_audio_features`` directly gets the same result as without the repair.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _audio_features, _tiny


def probe(module: ModuleType) -> Verdict:
    return _audio_features.verdict(module.Gemma4Model)


def repair(module: ModuleType, changes: Changes) -> None:
    _audio_features.merge_in_dtype(changes, module.Gemma4Model)


def canary() -> Figure:
    parts = "audio_tower", "embed_audio"
    return _audio_features.error_in_half(_tiny.multimodal_model(), _tiny.audio_inputs(), *parts)


PATCH = Patch(
    module=__name__,
    title="Gemma-4 does not cast audio features to the dtype of its input embeddings",
    severity="crash",
    symptoms=("expected self and source to have same dtypes @ modeling_gemma4",),
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.15.0",),
    links=(
        "https://github.com/huggingface/transformers/pull/47482",
        "https://github.com/unslothai/unsloth/issues/7224",
    ),
    measures="relative error of the logits, audio tower in float16, against float32 (expected: < 0.01)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
