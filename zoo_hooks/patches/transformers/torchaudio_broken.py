"""transformers fails if torchaudio is installed but cannot be loaded.

Symptom
-------
If torchaudio was built for another torch, the feature extractors of the audio spectrogram transformer and
of Speech2Text cannot be imported: ``OSError: ... undefined symbol``. Both have code of their own for use
without torchaudio. From 5.15.0 on nothing of transformers can be imported, and peft and trl's trainers
cannot be imported either.

Cause
-----
``is_torchaudio_available`` and ``is_speech_available`` only check whether torchaudio is installed. The
modules of these feature extractors call one of them and import torchaudio in the next line. In later
releases ``audio_utils`` does the same, and every model imports ``audio_utils``, directly or indirectly.

Repair
------
When a module calls one of these functions and then imports torchaudio, zoo-hooks tries that import during
the call. If the import fails, the answer is False from then on, and a warning with the error is logged
once. So everything that works without torchaudio works. Code that has to resample with torchaudio raises
torchaudio's own import error. Code that only calls one of these functions triggers no import, and
torchaudio itself is not changed.
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
    title="transformers fails if torchaudio is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ transformers @ torchaudio",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/audio_utils.py#L54",),
    measures="result of importing a feature extractor that does not need torchaudio (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
