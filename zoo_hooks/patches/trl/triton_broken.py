"""trl's trainers cannot be imported if triton is installed but cannot be loaded.

Symptom
-------
If triton was built for another system or is damaged, ``from trl import SFTTrainer`` raises triton's error,
for example ``ImportError: ... undefined symbol``. The trainers for GRPO, DPO, KTO, RLOO, rewards and
distillation fail in the same way. This happens even on a machine without a GPU, where no kernel of triton
can run.

Cause
-----
``is_triton_available`` of transformers only checks whether triton is installed. ``trl.kernels``, which
every trainer imports, calls it and imports triton in the next line. If triton is absent, trl computes the
same with torch. trl 1.15 caught the ImportError instead.

Repair
------
When a module of trl calls ``is_triton_available`` and is about to import triton, zoo-hooks imports triton
at that point. If this fails, the answer is False from then on, and a warning with the error is logged once.
trl's trainers then use torch.

transformers itself calls the function before it loads an MXFP4 model, and gets the same answer as before.
Code that only calls it loads nothing. Code that imports triton, or trl's kernels that need it, gets
triton's error. triton itself is not changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

TRL, ASKS = "trl.import_utils", "transformers.utils.import_utils"
KERNELS = "trl/kernels/chunked_logprob.py"
ROW = _optional.Row(
    "triton",
    ("is_triton_available",),
    ("_is_package_available", "_triton_available"),
    spared=("transformers",),  # which can dequantize without triton
)


def probe(_: ModuleType) -> Verdict:
    trl = sys.modules[TRL]
    if not trl.__file__ or not (Path(trl.__file__).parents[1] / KERNELS).exists():
        return Verdict.FIXED
    if not _optional.imports_at_once(trl, ROW._replace(home=KERNELS)):
        return Verdict.FIXED
    return _optional.probe(sys.modules[ASKS], ROW)


def repair(_: ModuleType, changes: Changes) -> None:
    _optional.repair(sys.modules[ASKS], changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("triton", "from trl import SFTTrainer")


PATCH = Patch(
    module=__name__,
    title="trl's trainers cannot be imported if triton is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("@ trl.kernels @ triton.__init__",),
    targets=(TRL, ASKS),
    requires=(TRL, ASKS),
    affects=("trl>=1.16.0",),
    links=("https://github.com/huggingface/trl/blob/v1.16.0/trl/kernels/chunked_logprob.py#L25",),
    measures="result of importing SFTTrainer beside a broken triton (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
