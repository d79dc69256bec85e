"""Nothing of transformers can be imported beside a soundfile that cannot be loaded.

Symptom
-------
Where soundfile is installed and its library libsndfile is missing or does not fit, ``from transformers
import LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers end in ``OSError: sndfile library
not found`` or ``cannot load library``, though none of them reads a sound.

Cause
-----
``is_soundfile_available`` says whether it is installed. ``audio_utils``, which every model imports in the
end, asks that and imports soundfile in the next line.

Repair
------
Where a module asks and is about to import soundfile, it is imported there and then. If that fails, the
answer is False from then on, which is told once in a warning with the error. So what works without
soundfile works, and reading or writing a sound with soundfile raises its own error. Nothing is loaded for
those who only ask, and soundfile itself is not touched.
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
    title="nothing of transformers can be imported beside a soundfile that cannot be loaded",
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
    measures="what importing transformers.audio_utils with such a soundfile gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
