"""transformers fails on a torchaudio that is installed but cannot be loaded.

Symptom
-------
Where torchaudio was built for another torch, the feature extractors of the audio spectrogram transformer
and of Speech2Text cannot be imported: ``OSError: ... undefined symbol``, though they have their own code
for where torchaudio is absent. From 5.15.0 on nothing of transformers can be imported, nor peft and trl's
trainers.

Cause
-----
``is_torchaudio_available`` and ``is_speech_available`` say whether it is installed. These modules ask that
and import torchaudio in the next line, in later releases also ``audio_utils``, which every model imports in
the end.

Repair
------
Where a module asks and is about to import torchaudio, it is imported there and then. If that fails, the
answer is False from then on, which is told once in a warning with the error. So what works without
torchaudio works, and what has to resample with torchaudio raises its own error. Nothing is loaded for those
who only ask, and torchaudio itself is not touched.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="torchaudio",
    questions=("is_torchaudio_available", "is_speech_available"),
    flags=("_is_package_available", "_torchaudio_available"),
    home="models/audio_spectrogram_transformer/feature_extraction_audio_spectrogram_transformer.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken(
        "torchaudio",
        "from transformers.models.audio_spectrogram_transformer import "
        "feature_extraction_audio_spectrogram_transformer",
    )


PATCH = Patch(
    module=__name__,
    title="transformers fails on a torchaudio that is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ transformers @ torchaudio",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/audio_utils.py#L54",),
    measures="what importing a feature extractor that can do without it gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
