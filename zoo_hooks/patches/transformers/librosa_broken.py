"""Nothing of transformers can be imported beside a librosa that cannot be loaded.

Symptom
-------
Where librosa is installed and its import fails, as beside a numba that does not know the installed numpy,
``from transformers import LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers end in that
error, though none of them reads a sound.

Cause
-----
``is_librosa_available`` says whether it is installed. ``audio_utils``, which every model imports in the
end, asks that and imports librosa in the next line. Later releases do not use it there.

Repair
------
Where a module asks and is about to import librosa, it is imported there and then. If that fails, the answer
is False from then on, which is told once in a warning with the error. So what works without librosa works,
and what needs librosa raises its own error. Nothing is loaded for those who only ask, and librosa itself is
not touched.
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
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("librosa", "import transformers.audio_utils")


PATCH = Patch(
    module=__name__,
    title="nothing of transformers can be imported beside a librosa that cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=(
        "undefined symbol @ transformers.audio_utils @ librosa",
        "Numba needs NumPy @ transformers.audio_utils @ librosa",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.51.0,<5.23.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.22.0/src/transformers/audio_utils.py",),
    measures="what importing transformers.audio_utils with such a librosa gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
