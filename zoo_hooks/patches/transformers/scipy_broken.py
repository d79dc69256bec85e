"""No model of transformers can be imported beside a scipy that cannot be loaded.

Symptom
-------
Where scipy was built for another numpy, ``from transformers import LlamaForCausalLM``, ``Trainer``,
``import peft`` and trl's trainers end in ``ImportError: numpy.core.multiarray failed to import`` or
``numpy.dtype size changed``, though only the losses of object detection use it.

Cause
-----
``is_scipy_available`` says whether it is installed. ``loss_for_object_detection``, which every model
imports by the table of losses, asks that and imports scipy in the next line.

Repair
------
Where a module asks and is about to import scipy, it is imported there and then. If that fails, the answer
is False from then on, which is told once in a warning with the error. So what works without scipy works,
and a loss that needs scipy raises its own error. Nothing is loaded for those who only ask, and scipy itself
is not touched.
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
    title="no model of transformers can be imported beside a scipy that cannot be loaded",
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
    measures="what importing the losses with such a scipy gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
