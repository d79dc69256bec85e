"""transformers uses torchcodec even if it is installed but cannot be loaded.

Symptom
-------
If torchcodec is installed but cannot be loaded (no FFmpeg, or built for another torch), ``load_audio``,
audio pipelines and video processors raise ``RuntimeError: Could not load libtorchcodec`` or ``OSError:
Could not load this library``. In these cases librosa, torchvision or no decoder at all would be enough. A
speech recognition pipeline fails even if its input is an array.

Cause
-----
``is_torchcodec_available`` only checks whether the package is installed, and its callers import torchcodec
at once. Later releases call ``is_torchcodec_usable``.

Repair
------
When ``is_torchcodec_available`` is about to return True, zoo-hooks imports torchcodec during the call,
once, as the caller is about to do. If the import fails, the function returns False throughout transformers,
and a warning with the error is logged once. So everything that works without torchcodec works. Code that
names torchcodec (``backend="torchcodec"``, ``load_audio_torchcodec``) raises torchcodec's own error, as in
releases with the fix. torchcodec is not imported before such a call, and torchcodec itself is not changed.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import FunctionType, ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken

ASKS = "transformers.utils.import_utils"
INSTALLED = {"_is_package_available", "_torchcodec_available"}
"""What upstream's own function says, which tells only whether it is installed."""


def probe(_: ModuleType) -> Verdict:
    asks = sys.modules[ASKS]
    ask = getattr(asks, "is_torchcodec_available", None)
    if ask is None or hasattr(asks, "is_torchcodec_usable"):
        return Verdict.FIXED
    if _broken.is_ours(ask):
        return Verdict.FIXED
    function = inspect.unwrap(ask)
    if not isinstance(function, FunctionType):
        return Verdict.UNKNOWN
    if INSTALLED.isdisjoint(function.__code__.co_names):
        return _broken.passing(function)
    return Verdict.AFFECTED if ask() else Verdict.FIXED


def repair(_: ModuleType, changes: Changes) -> None:
    original = sys.modules[ASKS].is_torchcodec_available
    torchcodec = _broken.Torchcodec(changes)

    def usable() -> bool:
        return bool(original()) and torchcodec.usable()

    # load_video asks for what was named, so it is let through, as requires_backends is, which has the
    # function in a table.
    by_name = import_module("transformers.video_utils")
    changes.rebind(original, _broken.asking(changes, original, "torchcodec", usable))
    changes.replace(by_name, "is_torchcodec_available", original)


def canary() -> Figure:
    import numpy as np
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForSequenceClassification,
        pipeline,
    )

    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(5, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        num_labels=2,
    )
    classify = pipeline(
        "audio-classification",
        model=Wav2Vec2ForSequenceClassification(config),
        feature_extractor=Wav2Vec2FeatureExtractor(),
    )
    scores = classify(np.zeros(1600, dtype=np.float32))
    return Figure(len(scores), healthy=len(scores) == 2)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="transformers uses torchcodec even if it is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=(
        "Could not load libtorchcodec @ transformers",
        "Could not load this library @ transformers",
    ),
    targets=("transformers.audio_utils",),
    affects=("transformers>=4.54.0,<5.23.0", "torchcodec"),
    links=("https://github.com/meta-pytorch/torchcodec/issues/912",),
    measures="labels that an audio pipeline returns for an array, of 2 (expected: 2)",
    probe=probe,
    repair=repair,
    canary=canary,
)
