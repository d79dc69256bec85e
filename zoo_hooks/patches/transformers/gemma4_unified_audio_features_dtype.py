"""Gemma-4 unified raises on audio when its audio embedder and its embeddings differ in dtype.

Symptom
-------
A forward with audio raises ``RuntimeError: masked_scatter_: expected self and source to have same dtypes
but got Float and Half``. This happens when the audio embedder and the input embeddings differ in dtype:
under autocast, or with parts of the model in float16.

Cause
-----
``Gemma4UnifiedModel.forward`` moves image and video features to the device and dtype of the input
embeddings. It moves audio features to the device only, as Gemma-4 does
(``transformers/gemma4-audio-features-dtype``).

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
from zoo_hooks.patches.transformers import _audio_features, _four_bit


def probe(module: ModuleType) -> Verdict:
    return _audio_features.verdict(module.Gemma4UnifiedModel)


def repair(module: ModuleType, changes: Changes) -> None:
    _audio_features.merge_in_dtype(changes, module.Gemma4UnifiedModel)


def canary() -> Figure:
    given = _four_bit.unified_audio_inputs()  # first, for without torch it is this that should be told
    return _audio_features.error_in_half(_four_bit.unified_model(), given, "embed_audio")


PATCH = Patch(
    module=__name__,
    title="Gemma-4 unified does not cast audio features to the dtype of its input embeddings",
    severity="crash",
    symptoms=("expected self and source to have same dtypes @ modeling_gemma4_unified",),
    targets=("transformers.models.gemma4_unified.modeling_gemma4_unified",),
    affects=("transformers>=5.10.0,<5.13.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.12.1/src/transformers/models/gemma4_unified/modeling_gemma4_unified.py#L1088-L1090",
        "https://github.com/huggingface/transformers/pull/47482",
    ),
    measures="relative error of the logits, audio embedder in float16, against float32 (expected: < 0.01)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
