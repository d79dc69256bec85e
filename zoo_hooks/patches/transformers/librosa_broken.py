"""Nothing can be imported from transformers if librosa is installed but fails to import.

Symptom
-------
librosa is installed, but its import fails, for example because its numba does not support the installed
numpy. Then ``from transformers import LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers
fail with that error, although none of them reads audio. A soxr that fails to import does the same.

Cause
-----
``is_librosa_available`` only checks whether librosa is installed. ``audio_utils``, which every model
imports indirectly, calls it and imports librosa in the next line, and then soxr. Later releases do not use
librosa there.

Repair
------
When a module calls ``is_librosa_available`` and is about to import librosa, zoo-hooks imports librosa at
that point, and soxr if the module imports both. If this fails, the answer is False from then on, and a
warning with the error is logged once. So everything that does not need librosa works. Code that needs
librosa gets the error of its import. Code that only calls ``is_librosa_available`` loads nothing. librosa
itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="librosa",
    questions=("is_librosa_available",),
    flags=("_is_package_available", "_librosa_available"),
    home="audio_utils.py",
    beside=("soxr",),
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("librosa", "import transformers.audio_utils")


PATCH = Patch(
    module=__name__,
    title="Nothing can be imported from transformers if librosa is installed but fails to import",
    severity="crash",
    guard=True,
    symptoms=(
        "undefined symbol @ transformers.audio_utils @ librosa",
        "Numba needs NumPy @ transformers.audio_utils @ librosa",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.51.0,<5.23.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.22.0/src/transformers/audio_utils.py",),
    measures="result of importing transformers.audio_utils beside a broken librosa (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
