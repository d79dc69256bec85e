"""``add_adapter`` and the other adapter methods of transformers models reject every released peft.

Symptom
-------
The adapter methods of a model from transformers raise ``ValueError: The version of PEFT you are using is
not compatible, please use a version >= 0.22.0``. The newest release of peft is 0.21.2. The methods are
``add_adapter``, ``set_adapter``, ``disable_adapters``, ``enable_adapters``, ``active_adapters`` and
``delete_adapter``. ``save_pretrained`` of a model with an adapter raises the same error.

Cause
-----
transformers 5.24.0 raised the minimum version of peft from 0.20.0 to 0.22.0. The reason is that 5.24.0 also
renamed ``past_key_values``, which breaks prompt learning in every released peft.

Repair
------
zoo-hooks lowers the minimum to 0.20.0, as in 5.23.0, but only while peft finds the KV cache under its new
name. That is the case while ``peft/prompt-learning-generate``, ``peft/prefix-tuning-heads`` and
``peft/shadow-cache-dropped`` are active, or while other code has repaired the same bugs. Otherwise the
minimum stays at 0.22.0. A peft below 0.20.0 is rejected as before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

RAISED, RELEASED = "0.22.0", "0.20.0"


def probe(module: ModuleType) -> Verdict:
    if getattr(module, "MIN_PEFT_VERSION", None) != RAISED:
        return Verdict.FIXED
    from transformers.utils import import_utils

    found, installed = import_utils._is_package_available("peft", return_version=True)  # noqa: SLF001
    parse = import_utils.version.parse
    refused = found and parse(RELEASED) <= parse(installed) < parse(RAISED)
    return Verdict.AFFECTED if refused else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., None]) -> Callable[..., None]:
        def check(*args: Any, **kwargs: Any) -> None:
            if _cache_is_found():
                args = tuple(RELEASED if floor == RAISED else floor for floor in args)
                kwargs = {name: RELEASED if floor == RAISED else floor for name, floor in kwargs.items()}
            original(*args, **kwargs)

        return check

    changes.wrap(module, "check_peft_version", make)


def _cache_is_found() -> bool:
    """Tell whether peft, as it is now, finds the cache under its new name."""
    import peft  # noqa: F401 - so that all of its modules are there

    from zoo_hooks.patches.peft import prefix_tuning_heads, prompt_learning_generate, shadow_cache_dropped

    patches = [part.PATCH for part in (prompt_learning_generate, prefix_tuning_heads, shadow_cache_dropped)]
    places = [(patch, name) for patch in patches for name in patch.targets if name in sys.modules]
    return all(patch.probe(sys.modules[name]) is Verdict.FIXED for patch, name in places)


def canary() -> Figure:
    from peft import LoraConfig

    from zoo_hooks.patches import _tiny

    model = _tiny.llama()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    active = model.active_adapters()
    return Figure(str(active), healthy=active == ["default"])


PATCH = Patch(
    module=__name__,
    title="Adapter methods of transformers models reject every released peft",
    severity="crash",
    symptoms=("The version of PEFT you are using is not compatible, please use a version >= 0.22.0",),
    targets=("transformers.integrations.peft",),
    affects=("transformers>=5.24.0", "peft>=0.20.0"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/peft.py#L47",
    ),
    measures="active adapters after add_adapter (expected: ['default'])",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
