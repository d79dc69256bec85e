"""trl's DPO trainer imports a mapping that transformers 5 has removed.

Symptom
-------
``from trl import DPOTrainer`` raises ``ImportError: cannot import name
'MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES' from 'transformers.models.auto.modeling_auto'``.

Cause
-----
transformers 5.0.0 removed the mapping of Vision2Seq models in favor of the mapping of image-text-to-text
models. trl uses the mapping to recognize vision models: the old one up to 0.22, and the new one from 0.23
on.

Repair
------
While the module of the DPO trainer is imported, the old name exists and refers to the new mapping. The name
is removed afterwards. The trainer then recognizes the same vision models as trl 0.23, including Gemma 3.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

OLD = "MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES"
NEW = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"
LOSS = 0.6931  # log 2, of a model against itself


def probe(module: ModuleType) -> Verdict:
    spec = module.__spec__
    read = getattr(spec.loader, "get_code", None) if spec else None
    if read is None or not spec:
        return Verdict.UNKNOWN
    if OLD not in read(spec.name).co_names:
        return Verdict.FIXED

    from transformers.models.auto import modeling_auto

    if hasattr(modeling_auto, OLD):
        return Verdict.FIXED
    return Verdict.AFFECTED if hasattr(modeling_auto, NEW) else Verdict.UNKNOWN


def repair(_: ModuleType, changes: Changes) -> None:
    from transformers.models.auto import modeling_auto

    changes.replace(modeling_auto, OLD, getattr(modeling_auto, NEW))


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny, availability_flags, warnings_issued

    with _tiny.mended(availability_flags.PATCH), _tiny.mended(warnings_issued.PATCH):
        loss = _tiny.dpo_loss()
    return Figure(loss, healthy=abs(loss - LOSS) < 1e-4)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="trl's DPO trainer imports a mapping that transformers 5 has removed",
    severity="crash",
    symptoms=("'MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES' from 'transformers.models.auto.modeling_auto' @ trl",),
    targets=("trl.trainer.dpo_trainer",),
    affects=("trl>=0.16.0,<0.23.0", "transformers>=5.0.0"),
    links=(
        "https://github.com/modelscope/ms-swift/issues/9343",
        "https://github.com/huggingface/trl/pull/4049",
    ),
    measures="loss of one DPO step with identical policy and reference models (expected: 0.6931)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
