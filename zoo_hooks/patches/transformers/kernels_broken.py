"""No model of transformers can be imported if the package kernels is installed but fails to import.

Symptom
-------
kernels is installed, but its import fails, for example because it was written for another torch or
huggingface_hub. Then ``from transformers import LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's
trainers fail with that error. This happens even if no kernel of the Hub is used.

Cause
-----
``is_kernels_available`` only checks the installed version of kernels. ``hub_kernels``, which every model
imports, calls it and imports kernels in the next line. Earlier releases caught the ImportError instead.

Repair
------
When a module calls ``is_kernels_available`` and is about to import kernels, zoo-hooks imports kernels at
that point. If this fails, the answer is False from then on, and a warning with the error is logged once. So
everything that does not need kernels works. Code that asks for a kernel of the Hub gets the error of the
failed import. Code that only calls ``is_kernels_available`` loads nothing. kernels itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="kernels",
    questions=("is_kernels_available",),
    flags=("_is_package_available",),
    home="integrations/hub_kernels.py",
    refusing=("load_and_register_attn_kernel", "get_kernel", "kernelize"),
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    from transformers.utils import import_utils

    allowed = getattr(import_utils, "KERNELS_MIN_VERSION", "9.0.0")
    return _broken.with_broken("kernels", "import transformers.integrations.hub_kernels", version=allowed)


PATCH = Patch(
    module=__name__,
    title="No model of transformers can be imported if the package kernels is installed but broken",
    severity="crash",
    guard=True,
    symptoms=("@ transformers.integrations.hub_kernels @ kernels.__init__",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=5.13.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/hub_kernels.py#L83",
    ),
    measures="result of importing hub_kernels beside a broken kernels (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
