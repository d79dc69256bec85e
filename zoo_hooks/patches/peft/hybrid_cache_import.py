"""import peft fails with transformers 5, which has no HybridCache.

Symptom
-------
``import peft`` raises ``ImportError: cannot import name 'HybridCache' from 'transformers'``.

Cause
-----
``peft.peft_model`` imports the class at its top. It needs the class only for prefix tuning of Gemma-2 and
Gemma-3. transformers 5.0 has removed it.

Repair
------
While ``peft.peft_model`` is imported, ``transformers`` has a placeholder named ``HybridCache``. The
placeholder is removed afterwards, so other code that checks for the class gets the true answer. Creating
one, as that prefix tuning does, raises an ImportError that names the release of peft to upgrade to.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


def probe(module: ModuleType) -> Verdict:
    loader = module.__spec__.loader if module.__spec__ else None
    code = loader.get_code(module.__name__) if loader and hasattr(loader, "get_code") else None
    if code is None:
        return Verdict.UNKNOWN
    # The names of the module's own body; an import inside a function stands in that function's code.
    if "HybridCache" not in code.co_names:
        return Verdict.FIXED

    import transformers

    return Verdict.FIXED if hasattr(transformers, "HybridCache") else Verdict.AFFECTED


def repair(_: ModuleType, changes: Changes) -> None:
    import transformers

    class HybridCache:
        def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
            raise ImportError(
                "transformers 5 has no HybridCache, which this peft needs for prefix tuning of Gemma-2 and "
                "Gemma-3; upgrade peft to 0.18.0 or later"
            )

    changes.replace(transformers, "HybridCache", HybridCache)


def canary() -> Figure:
    import peft.peft_model

    return Figure(f"{peft.peft_model.PeftModel.__name__} is there", healthy=True)


PATCH = Patch(
    module=__name__,
    title="import peft fails because transformers 5 has no HybridCache",
    severity="crash",
    symptoms=("cannot import name 'HybridCache' from 'transformers' @ peft.peft_model",),
    targets=("peft.peft_model",),
    affects=("peft>=0.16.0,<0.18.0", "transformers>=5.0.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.17.1/src/peft/peft_model.py#L37",
        "https://github.com/huggingface/transformers/pull/40276",
    ),
    measures="result of importing peft (expected: PeftModel is there)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
