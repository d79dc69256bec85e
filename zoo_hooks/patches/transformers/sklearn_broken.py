"""transformers models and ``Trainer`` cannot be imported if scikit-learn is installed but cannot be loaded.

Symptom
-------
If scikit-learn was built for another numpy or scipy, ``from transformers import LlamaForCausalLM`` raises
``ValueError: numpy.dtype size changed`` or an ImportError of scikit-learn. Importing ``Trainer``, peft or
trl's trainers fails in the same way. Only assisted generation uses scikit-learn, and only one function of
it.

Cause
-----
``is_sklearn_available`` only checks whether scikit-learn is installed. ``candidate_generator`` calls it and
imports scikit-learn in the next line. ``generate`` imports this module, so every model does too. Later
releases import scikit-learn only where they use it.

Repair
------
When a module calls ``is_sklearn_available`` and then imports sklearn, zoo-hooks tries that import during
the call. If the import fails, the answer is False from then on, and a warning with the error is logged
once. So everything that works without sklearn works. Code that needs sklearn raises sklearn's own import
error. Code that only calls ``is_sklearn_available`` triggers no import, and sklearn itself is not changed.
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
    title="transformers models and Trainer cannot be imported if scikit-learn is installed but broken",
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
    measures="result of importing assisted generation with a broken scikit-learn (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
