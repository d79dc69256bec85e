"""trl up to 0.26 passes the argument guided_decoding, which vLLM 0.12 and later reject.

Symptom
-------
With vLLM in the same process, each generation step of GRPO and RLOO raises
``TypeError: Unexpected keyword argument 'guided_decoding'``. So does each request to ``trl vllm-serve``.
Both raise even without guided decoding. Online DPO raises if a pattern is given.

This error appears only if trl can be imported (see ``vllm/guided-decoding-params``). Behind it, trl 0.24 to
0.26 raise the same error for ``truncate_prompt_tokens`` with vLLM from 0.17.0.

Cause
-----
vLLM 0.11 renamed this argument of ``SamplingParams`` to ``structured_outputs``, and 0.12.0 removed the old
name. trl up to 0.26 passes the old name. It mostly does so even if there is no pattern, with None as the
value. From vLLM 0.17 on, the maximum length of prompts is an argument of ``LLM.generate`` and ``LLM.chat``.

Repair
------
In the affected modules of trl, ``SamplingParams`` passes the argument on under its new name. It still
creates objects of vLLM's own class, and that class is not changed. A ``structured_outputs`` in
``generation_kwargs`` is kept.

The maximum length is stored in ``extra_args``, a field that vLLM itself does not use. The ``LLM`` that the
module creates reads it there: its ``generate`` and ``chat`` pass it on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

OLD, NEW = "guided_decoding", "structured_outputs"
LIMIT = "truncate_prompt_tokens"


def probe(module: ModuleType) -> Verdict:
    if not hasattr(module, "GuidedDecodingParams"):  # there is no vLLM, or TRL knows the new name
        return Verdict.FIXED
    with symptom(TypeError, f"keyword argument '{OLD}'"):
        module.SamplingParams(**{OLD: None})
        return Verdict.FIXED
    return Verdict.AFFECTED if hasattr(module.SamplingParams, NEW) else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    from zoo_hooks.patches.vllm._stand_in import stand_in

    real = module.SamplingParams

    def make(*args: Any, **kwargs: Any) -> Any:
        if (constraint := kwargs.pop(OLD, None)) is not None:
            kwargs[NEW] = constraint
        if moved and (limit := kwargs.pop(LIMIT, None)) is not None:
            kwargs["extra_args"] = {**(kwargs.get("extra_args") or {}), LIMIT: limit}
        return real(*args, **kwargs)

    moved = not hasattr(real, LIMIT)
    here = module.__name__
    changes.replace(module, "SamplingParams", stand_in("SamplingParams", here, real, make))
    if moved and hasattr(module, "LLM"):
        changes.replace(module, "LLM", stand_in("LLM", here, module.LLM, partial(_cutting, module.LLM)))


def _cutting(real: Any, *args: Any, **kwargs: Any) -> Any:
    """An object of vLLM's class whose methods look for the length in the parameters."""
    llm = real(*args, **kwargs)
    for name in ("generate", "chat"):
        setattr(llm, name, _cut(getattr(llm, name)))
    return llm


def _cut(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        extra = [getattr(one, "extra_args", None) or {} for one in (*args, *kwargs.values())]
        limit = next((given[LIMIT] for given in extra if LIMIT in given), None)
        if limit is not None:
            kwargs["tokenization_kwargs"] = {LIMIT: limit, **(kwargs.get("tokenization_kwargs") or {})}
        return method(*args, **kwargs)

    return call


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny

    _, sampling = _tiny.constrained("a+")
    seen = getattr(sampling, NEW, None) or getattr(sampling, OLD)
    return Figure(seen.regex, healthy=seen.regex == "a+")


PATCH = Patch(
    module=__name__,
    title="trl up to 0.26 passes vLLM the argument guided_decoding, which vLLM 0.12 has removed",
    severity="crash",
    symptoms=(
        "Unexpected keyword argument 'guided_decoding' @ trl",
        "Unexpected keyword argument 'truncate_prompt_tokens' @ trl",
    ),
    targets=(
        "trl.scripts.vllm_serve",
        "trl.trainer.grpo_trainer",
        "trl.trainer.rloo_trainer",
        "trl.trainer.online_dpo_trainer",
        "trl.experimental.online_dpo.online_dpo_trainer",
        "trl.experimental.gold.gold_trainer",
        "trl.experimental.openenv.utils",
    ),
    affects=("trl>=0.17.0,<0.27.0", "vllm>=0.12.0"),
    links=(
        "https://github.com/huggingface/trl/issues/4617",
        "https://github.com/huggingface/trl/pull/4117",
        "https://github.com/vllm-project/vllm/pull/29326",
    ),
    measures="pattern in the sampling parameters that trl creates (expected: a+)",
    probe=probe,
    repair=repair,
    canary=canary,
)
