"""TRL 0.26 imports a module of vLLM, transformers_utils.tokenizer, that vLLM 0.22 no longer has.

Symptom
-------
``import trl`` raises ``ModuleNotFoundError: No module named 'vllm.transformers_utils.tokenizer'`` as soon as
vLLM is installed.

Cause
-----
TRL 0.26 puts a function of its own into that module, which vLLM needed with transformers 5 up to 0.11. vLLM
has had its own repair since 0.12, and has not had the module since 0.22. TRL asks for the release from 0.27.

Repair
------
While TRL's body runs, and no longer, an empty module stands there for what TRL writes. vLLM is imported a
moment earlier than by TRL, so its log level is the user's or its own, not the ERROR that TRL sets.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

PACKAGE, MISSING = "vllm.transformers_utils", "vllm.transformers_utils.tokenizer"


def probe(module: ModuleType) -> Verdict:
    spec = module.__spec__
    read = getattr(spec.loader, "get_code", None) if spec else None
    if read is None or not spec:
        return Verdict.UNKNOWN
    if MISSING not in read(spec.name).co_names or MISSING in sys.modules:
        return Verdict.FIXED
    vllm = find_spec("vllm")
    folders = [Path(at, "transformers_utils") for at in (vllm and vllm.submodule_search_locations) or ()]
    if any((folder / name).exists() for folder in folders for name in ("tokenizer.py", "tokenizer")):
        return Verdict.FIXED
    return Verdict.AFFECTED if any(folder.is_dir() for folder in folders) else Verdict.FIXED


def repair(_: ModuleType, changes: Changes) -> None:
    import_module(PACKAGE)
    changes.provide(MISSING, module_from_spec(ModuleSpec(MISSING, None)))


def canary() -> Figure:
    import trl

    return Figure(f"{trl.SFTConfig.__name__} is there", healthy=True)


PATCH = Patch(
    module=__name__,
    title="TRL 0.26 imports a module of vLLM, transformers_utils.tokenizer, that vLLM 0.22 no longer has",
    severity="crash",
    symptoms=("No module named 'vllm.transformers_utils.tokenizer' @ trl",),
    targets=("trl",),
    affects=("trl>=0.26.0,<0.27.0", "vllm>=0.22.0"),
    links=(
        "https://github.com/huggingface/trl/blob/v0.26.2/trl/__init__.py#L228",
        "https://github.com/vllm-project/vllm/pull/29686",
    ),
    measures="what importing trl gives (expected: SFTConfig is there)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
