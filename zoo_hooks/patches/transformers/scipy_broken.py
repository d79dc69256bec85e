"""transformers models and ``Trainer`` cannot be imported if scipy is installed but cannot be loaded.

Symptom
-------
If scipy was built for another numpy, ``from transformers import LlamaForCausalLM`` raises ``ImportError:
numpy.core.multiarray failed to import`` or ``numpy.dtype size changed``. Importing ``Trainer``, peft or
trl's trainers fails in the same way. Only the losses of object detection use scipy.

Cause
-----
``is_scipy_available`` only checks whether scipy is installed. ``loss_for_object_detection`` calls it and
imports scipy in the next line. Every model imports this module through the table of losses.

Repair
------
When a module calls ``is_scipy_available`` and then imports scipy, zoo-hooks tries that import during the
call. If the import fails, the answer is False from then on, and a warning with the error is logged once. So
everything that works without scipy works. A loss that needs scipy raises scipy's own import error. Code
that only calls ``is_scipy_available`` triggers no import, and scipy itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="scipy",
    questions=("is_scipy_available",),
    flags=("_is_package_available", "_scipy_available"),
    home="loss/loss_for_object_detection.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("scipy", "import transformers.loss.loss_for_object_detection")


PATCH = Patch(
    module=__name__,
    title="transformers models and Trainer cannot be imported if scipy is installed but broken",
    severity="crash",
    guard=True,
    symptoms=(
        "multiarray failed to import @ transformers.loss @ scipy",
        "numpy.dtype size changed @ transformers.loss @ scipy",
        "undefined symbol @ transformers.loss @ scipy",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/loss/loss_for_object_detection.py#L26",
    ),
    measures="result of importing the object detection losses with a broken scipy (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
