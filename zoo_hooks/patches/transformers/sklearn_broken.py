"""Nothing of transformers can generate beside a scikit-learn that cannot be loaded.

Symptom
-------
Where scikit-learn was built for another numpy or scipy, ``from transformers import LlamaForCausalLM``,
``Trainer``, ``import peft`` and trl's trainers end in ``ValueError: numpy.dtype size changed`` or an
ImportError of scikit-learn's, though only assisted generation uses one function of it.

Cause
-----
``is_sklearn_available`` says whether it is installed. ``candidate_generator``, which ``generate`` and so
every model imports, asks that and imports scikit-learn in the next line. Later releases do so where it is
used.

Repair
------
Where a module asks and is about to import sklearn, it is imported there and then. If that fails, the answer
is False from then on, which is told once in a warning with the error. So what works without sklearn works,
and what needs it raises its own error. Nothing is loaded for those who only ask, and sklearn itself is not
touched.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="sklearn",
    questions=("is_sklearn_available",),
    flags=("_is_package_available", "_sklearn_available"),
    home="generation/candidate_generator.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken(
        "sklearn", "import transformers.generation.candidate_generator", distribution="scikit-learn"
    )


PATCH = Patch(
    module=__name__,
    title="no model of transformers can be imported beside a scikit-learn that cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=(
        "numpy.dtype size changed @ candidate_generator @ sklearn",
        "undefined symbol @ candidate_generator @ sklearn",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0,<5.21.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.20.0/src/transformers/generation/candidate_generator.py",
    ),
    measures="what importing the module of assisted generation gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
