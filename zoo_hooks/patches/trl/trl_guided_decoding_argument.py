"""TRL up to 0.26 hands vLLM an argument, guided_decoding, that vLLM 0.12 no longer takes.

Symptom
-------
With vLLM in the same process each generation step of GRPO, RLOO and Online DPO, and each request to ``trl
vllm-serve``, raises ``TypeError: Unexpected keyword argument 'guided_decoding'``, also where nothing guides.
It is seen once the import works (``vllm-guided-decoding-params``).

Cause
-----
vLLM 0.11 renamed the argument of ``SamplingParams`` to ``structured_outputs``; 0.12.0 dropped the old name.
TRL up to 0.26 passes the old one each time, as None where there is no pattern.

Repair
------
In the modules of TRL that do so ``SamplingParams`` hands the argument on by its new name. vLLM's own class is
as it was, and its objects are made. A ``structured_outputs`` among the ``generation_kwargs`` is kept.
"""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

OLD, NEW = "guided_decoding", "structured_outputs"


def probe(module: ModuleType) -> Verdict:
    if not hasattr(module, "GuidedDecodingParams"):  # there is no vLLM, or TRL knows the new name
        return Verdict.FIXED
    with suppress(TypeError):
        module.SamplingParams(**{OLD: None})
        return Verdict.FIXED
    return Verdict.AFFECTED if hasattr(module.SamplingParams, NEW) else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    from zoo_hooks.patches.vllm._stand_in import stand_in

    real = module.SamplingParams

    def make(*args: Any, **kwargs: Any) -> Any:
        if (constraint := kwargs.pop(OLD, None)) is not None:
            kwargs[NEW] = constraint
        return real(*args, **kwargs)

    changes.replace(module, "SamplingParams", stand_in("SamplingParams", real, make))


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny

    _, sampling = _tiny.constrained("a+")
    seen = getattr(sampling, NEW, None) or getattr(sampling, OLD)
    return Figure(seen.regex, healthy=seen.regex == "a+")


PATCH = Patch(
    module=__name__,
    title="TRL up to 0.26 hands vLLM an argument, guided_decoding, that vLLM 0.12 no longer takes",
    targets=(
        "trl.scripts.vllm_serve",
        "trl.trainer.grpo_trainer",
        "trl.trainer.rloo_trainer",
        "trl.trainer.online_dpo_trainer",
        "trl.experimental.online_dpo.online_dpo_trainer",
        "trl.experimental.gold.gold_trainer",
        "trl.experimental.openenv.utils",
    ),
    affects=("trl>=0.16.1,<0.27.0", "vllm>=0.12.0"),
    links=(
        "https://github.com/huggingface/trl/issues/4617",
        "https://github.com/huggingface/trl/pull/4117",
        "https://github.com/vllm-project/vllm/pull/29326",
    ),
    measures="the pattern in the sampling parameters that TRL makes (right: a+)",
    probe=probe,
    repair=repair,
    canary=canary,
)
