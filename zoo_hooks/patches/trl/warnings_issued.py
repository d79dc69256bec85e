"""trl's trainers write to a dictionary, warnings_issued, that models of transformers no longer have.

Symptom
-------
``GRPOTrainer(...)`` raises
``AttributeError: 'LlamaForCausalLM' object has no attribute 'warnings_issued'``. DPO, RLOO, Online DPO,
KTO, CPO, ORPO, BCO and the older reward trainer raise the same error.

Cause
-----
Up to transformers 5.0.0, each model had an empty dictionary of that name. transformers 5.1.0 removed it.
trl up to 0.26 writes to the dictionary without checking that it exists.

Repair
------
When the module that all trainers share is imported, ``PreTrainedModel`` gets the attribute back. A model
creates its dictionary on first access. A model that has its own dictionary keeps it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

NAME = "warnings_issued"
LOSS = 0.5  # of a model against itself


def probe(module: ModuleType) -> Verdict:
    trainer = Path(module.__file__ or "").with_name("dpo_trainer.py").read_text(encoding="utf-8")
    if f"model.{NAME}[" not in trainer:
        return Verdict.FIXED

    from transformers import PretrainedConfig, PreTrainedModel

    return Verdict.FIXED if hasattr(PreTrainedModel(PretrainedConfig()), NAME) else Verdict.AFFECTED


def repair(_: ModuleType, changes: Changes) -> None:
    from transformers import PreTrainedModel

    def warnings_issued(_: Any) -> dict[str, bool]:
        return {}

    # No data descriptor: what a model sets itself, in whatever way, comes first.
    made = cached_property(warnings_issued)
    made.__set_name__(PreTrainedModel, NAME)
    changes.replace(PreTrainedModel, NAME, made)


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny

    loss = _tiny.kto_loss()
    return Figure(loss, healthy=abs(loss - LOSS) < 1e-4)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="trl's trainers write to warnings_issued, which models of transformers no longer have",
    severity="crash",
    symptoms=("object has no attribute 'warnings_issued' @ trl",),
    targets=("trl.trainer.utils",),
    affects=("trl>=0.16.0,<0.27.2", "transformers>=5.1.0"),
    links=("https://github.com/unslothai/unsloth/pull/7854",),
    measures="loss of one KTO step with identical policy and reference models (expected: 0.5)",
    probe=probe,
    repair=repair,
    canary=canary,
)
