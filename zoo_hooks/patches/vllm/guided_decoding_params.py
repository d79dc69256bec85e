"""Trainers of TRL up to 0.26 cannot be imported with vLLM 0.12, which removed ``GuidedDecodingParams``.

Symptom
-------
As soon as vLLM is installed, ``from trl import GRPOTrainer`` raises ``ImportError: cannot import name
'GuidedDecodingParams' from 'vllm.sampling_params'``. So do the imports of the RLOO and Online DPO trainers,
and ``trl vllm-serve``.

Cause
-----
vLLM 0.11 renamed the class to ``StructuredOutputsParams`` and still has both names. vLLM 0.12.0 removed the
old name. TRL from 0.27 on chooses the name itself.

Repair
------
If the installed TRL knows only the old name, zoo-hooks adds it to ``vllm.sampling_params`` for the new
class. The new class can refuse to be created without a constraint, as in vLLM 0.33. The old name then
returns None for such a call. Without such a TRL nothing is added, so other code that looks for the old name
finds what vLLM has.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

OLD, NEW = "GuidedDecodingParams", "StructuredOutputsParams"
REFUSAL = "none are specified"
# trl 0.16 imports this too. No vLLM without the old name has it, so nothing would be gained there.
WORKER = "vllm.worker"
CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def probe(module: ModuleType) -> Verdict:
    if hasattr(module, OLD) or not _trl_knows_the_old_name_only():
        return Verdict.FIXED
    if not hasattr(module, NEW):
        return Verdict.UNKNOWN
    _refuses_an_empty_one(module)  # raises what else there is to say against it
    return Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    new = getattr(module, NEW)
    changes.replace(module, OLD, _none_where_empty(new) if _refuses_an_empty_one(module) else new)


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny

    constraint, _ = _tiny.constrained("a+")
    return Figure(constraint.regex, healthy=constraint.regex == "a+")


def _trl_knows_the_old_name_only() -> bool:
    spec = find_spec("trl")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "scripts", "vllm_serve.py")
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return OLD in text and NEW not in text and WORKER not in text
    return False


def _refuses_an_empty_one(module: ModuleType) -> bool:
    """Tell whether the new class wants a constraint."""
    with symptom(Exception, REFUSAL):
        getattr(module, NEW)()
        return False
    return True


def _none_where_empty(new: Any) -> Any:
    from zoo_hooks.patches.vllm._stand_in import stand_in

    def make(*args: Any, **kwargs: Any) -> Any:
        given = [*args[:5], *(kwargs.get(name) for name in CONSTRAINTS)]
        return None if all(value is None for value in given) else new(*args, **kwargs)

    return stand_in(OLD, new.__module__, new, make)


PATCH = Patch(
    module=__name__,
    title="trl up to 0.26 imports vLLM's GuidedDecodingParams, which vLLM 0.12 removed",
    severity="crash",
    symptoms=("cannot import name 'GuidedDecodingParams' from 'vllm.sampling_params' @ trl",),
    targets=("vllm.sampling_params",),
    affects=("vllm>=0.12.0", "trl>=0.17.0,<0.27.0"),
    links=(
        "https://github.com/huggingface/trl/issues/4617",
        "https://github.com/vllm-project/vllm/pull/29326",
        "https://github.com/huggingface/trl/pull/4797",
    ),
    measures="pattern in the decoding constraint that trl creates (expected: a+)",
    probe=probe,
    repair=repair,
    canary=canary,
)
