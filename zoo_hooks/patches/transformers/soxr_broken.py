"""transformers models and ``Trainer`` cannot be imported if soxr is installed but cannot be loaded.

Symptom
-------
If soxr is installed but its extension module cannot be loaded, ``from transformers import
LlamaForCausalLM`` raises the error of ``import soxr``. Importing ``Trainer``, peft or trl's trainers fails
in the same way. None of these imports has to resample audio.

Cause
-----
``is_soxr_available`` only checks whether soxr is installed. ``audio_utils`` calls it and imports soxr in
the next line. Every model imports ``audio_utils``, directly or indirectly.

Repair
------
When a module calls ``is_soxr_available`` and then imports soxr, zoo-hooks tries that import during the
call. If the import fails, the answer is False from then on, and a warning with the error is logged once. So
everything that works without soxr works. Resampling with soxr raises soxr's own import error. Code that
only calls ``is_soxr_available`` triggers no import, and soxr itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="soxr",
    questions=("is_soxr_available",),
    flags=("_is_package_available", "_soxr_available"),
    home="audio_utils.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("soxr", "import transformers.audio_utils")


PATCH = Patch(
    module=__name__,
    title="transformers models and Trainer cannot be imported if soxr is installed but broken",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ transformers.audio_utils @ soxr",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=5.23.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/audio_utils.py#L51",),
    measures="result of importing transformers.audio_utils with a broken soxr (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
