"""TRL up to 0.26 imports vLLM's GuidedDecodingParams, which vLLM 0.12 no longer has.

Symptom
-------
``from trl import GRPOTrainer``, RLOO and Online DPO, and ``trl vllm-serve`` raise ``ImportError:
cannot import name 'GuidedDecodingParams' from 'vllm.sampling_params'`` as soon as vLLM is installed.

Cause
-----
vLLM renamed the class to ``StructuredOutputsParams`` in 0.11, which has both, and took the old name away in
0.12.0. TRL chooses by itself from 0.27.

Repair
------
Where the TRL that is installed knows the old name only, ``vllm.sampling_params`` has it, for the new class.
Where that class refuses to be made without a constraint, as in vLLM 0.33, the old name gives None for that.
Without such a TRL nothing is added, so that others who look for the old name find what vLLM has.
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
            return OLD in text and NEW not in text
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
    title="TRL up to 0.26 imports vLLM's GuidedDecodingParams, which vLLM 0.12 no longer has",
    severity="crash",
    symptoms=("cannot import name 'GuidedDecodingParams' from 'vllm.sampling_params' @ trl",),
    targets=("vllm.sampling_params",),
    affects=("vllm>=0.12.0", "trl>=0.17.0,<0.27.0"),
    links=(
        "https://github.com/huggingface/trl/issues/4617",
        "https://github.com/vllm-project/vllm/pull/29326",
        "https://github.com/huggingface/trl/pull/4797",
    ),
    measures="the pattern in the constraint that TRL makes (expected: a+)",
    probe=probe,
    repair=repair,
    canary=canary,
)
