"""trl 0.26 cannot be imported with vLLM 0.22 and later, which have removed transformers_utils.tokenizer.

Symptom
-------
``import trl`` raises ``ModuleNotFoundError: No module named 'vllm.transformers_utils.tokenizer'`` if vLLM
is installed.

Cause
-----
trl 0.26 writes a function of its own into that module of vLLM. vLLM up to 0.11 needed this with
transformers 5. vLLM has had its own fix since 0.12, and removed the module in 0.22. trl checks the release
of vLLM from 0.27 on.

Repair
------
While trl is imported, an empty module takes the place of the missing one, so that trl can write to it. The
empty module is removed afterwards. vLLM is imported a moment earlier than by trl. Its log level is
therefore the user's or vLLM's own, not the ERROR that trl sets.
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
    title="trl 0.26 imports vllm.transformers_utils.tokenizer, which vLLM 0.22 has removed",
    severity="crash",
    symptoms=("No module named 'vllm.transformers_utils.tokenizer' @ trl",),
    targets=("trl",),
    affects=("trl>=0.26.0,<0.27.0", "vllm>=0.22.0"),
    links=(
        "https://github.com/huggingface/trl/blob/v0.26.2/trl/__init__.py#L228",
        "https://github.com/vllm-project/vllm/pull/29686",
    ),
    measures="result of importing trl (expected: SFTConfig is there)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
