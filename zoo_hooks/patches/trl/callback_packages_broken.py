"""trl's trainers cannot be imported if weave or rich is installed but cannot be loaded.

Symptom
-------
If ``import rich`` raises, ``from trl import SFTTrainer`` raises the same error, and so does the import of
every other trainer. If ``import weave`` raises, the trainers for GRPO, RLOO and others fail in the same way.
This happens even if no completions are logged.

Cause
-----
``is_weave_available`` and ``is_rich_available`` only check whether the package is installed.
``trl.trainer.utils`` and ``trl.trainer.callbacks`` call them and import the packages in the next line. Every
trainer imports the first module, and some import the second. Only ``WeaveCallback`` and printed tables of
completions need the packages.

Repair
------
When a module calls one of these functions and then imports the package, zoo-hooks tries that import during
the call. If the import fails, the answer is False from then on, and a warning with the error is logged
once. So trainers can be imported and used. Code that needs the package raises its own import error. Code
that only calls the function triggers no import, and the packages themselves are not changed.
"""

from __future__ import annotations

import sys
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

TRL, ASKS = "trl.import_utils", "transformers.utils.import_utils"
CALLBACKS = "trl/trainer/callbacks.py"  # up to 0.17 trl cannot do without rich
WEAVE = _optional.Row(
    "weave",
    ("is_weave_available",),
    ("_is_package_available", "_weave_available"),
    home=CALLBACKS,
)
RICH = _optional.Row(
    "rich", ("is_rich_available",), ("_is_package_available", "_rich_available"), spared=("transformers",)
)


def probe(_: ModuleType) -> Verdict:
    trl, asks = sys.modules[TRL], sys.modules[ASKS]
    if not _optional.imports_at_once(trl, RICH._replace(home=CALLBACKS)):
        return _optional.probe(trl, WEAVE)
    found = {_optional.probe(trl, WEAVE), _optional.probe(trl, RICH), _optional.probe(asks, RICH)}
    return next((one for one in (Verdict.AFFECTED, Verdict.UNKNOWN) if one in found), Verdict.FIXED)


def repair(_: ModuleType, changes: Changes) -> None:
    _optional.repair(sys.modules[TRL], changes, WEAVE, RICH)
    _optional.repair(sys.modules[ASKS], changes, RICH)


def canary() -> Figure:
    return _broken.with_broken("rich", "import trl.trainer.sft_trainer", _broken.package("weave"))


PATCH = Patch(
    module=__name__,
    title="trl's trainers cannot be imported if weave or rich is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("@ trl.trainer @ weave.__init__", "@ trl.trainer @ rich.__init__"),
    targets=(TRL, ASKS),
    requires=(TRL, ASKS),
    affects=("trl>=0.18.0",),
    links=("https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/callbacks.py#L41",),
    measures="result of importing the SFT trainer beside a broken weave and rich (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
