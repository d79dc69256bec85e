"""Nothing of transformers can be imported beside a soxr that cannot be loaded.

Symptom
-------
Where soxr is installed and its extension cannot be loaded, ``from transformers import LlamaForCausalLM``,
``Trainer``, ``import peft`` and trl's trainers end in that error, though none of them resamples a sound.

Cause
-----
``is_soxr_available`` says whether it is installed. ``audio_utils``, which every model imports in the end,
asks that and imports soxr in the next line.

Repair
------
Where a module asks and is about to import soxr, it is imported there and then. If that fails, the answer is
False from then on, which is told once in a warning with the error. So what works without soxr works, and
resampling with it raises its own error. Nothing is loaded for those who only ask, and soxr itself is not
touched.
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
    title="nothing of transformers can be imported beside a soxr that cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ transformers.audio_utils @ soxr",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=5.23.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/audio_utils.py#L51",),
    measures="what importing transformers.audio_utils with such a soxr gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
