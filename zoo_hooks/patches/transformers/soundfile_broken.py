"""transformers models and ``Trainer`` cannot be imported if soundfile is installed but cannot be loaded.

Symptom
-------
If soundfile is installed but its library libsndfile is missing or incompatible, ``from transformers import
LlamaForCausalLM`` raises ``OSError: sndfile library not found`` or ``cannot load library``. Importing
``Trainer``, peft or trl's trainers fails in the same way. None of these imports has to read audio.

Cause
-----
``is_soundfile_available`` only checks whether soundfile is installed. ``audio_utils`` calls it and imports
soundfile in the next line. Every model imports ``audio_utils``, directly or indirectly.

Repair
------
When a module calls ``is_soundfile_available`` and then imports soundfile, zoo-hooks tries that import
during the call. If the import fails, the answer is False from then on, and a warning with the error is
logged once. So everything that works without soundfile works. Reading or writing audio with soundfile
raises soundfile's own import error. Code that only calls ``is_soundfile_available`` triggers no import, and
soundfile itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="soundfile",
    questions=("is_soundfile_available", "is_soundfile_availble"),
    flags=("_is_package_available", "_soundfile_available"),
    home="audio_utils.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("soundfile", "import transformers.audio_utils")


PATCH = Patch(
    module=__name__,
    title="transformers models and Trainer cannot be imported if soundfile is installed but broken",
    severity="crash",
    guard=True,
    symptoms=(
        "sndfile library not found @ transformers.audio_utils",
        "cannot load library @ transformers.audio_utils @ soundfile",
        "undefined symbol @ transformers.audio_utils @ soundfile",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.54.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/audio_utils.py#L48",),
    measures="result of importing transformers.audio_utils with a broken soundfile (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
