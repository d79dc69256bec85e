"""trl up to 0.27 imports get_open_port from a place where vLLM 0.14 no longer has it.

Symptom
-------
``trl vllm-serve``, and any import of ``trl.scripts.vllm_serve``, raises
``ImportError: cannot import name 'get_open_port' from 'vllm.utils'``.

Cause
-----
vLLM moved the function to ``vllm.utils.network_utils``. Up to vLLM 0.13, the old place still worked, with a
warning. trl checks the release of vLLM from 0.28 on.

Repair
------
While ``trl.scripts.vllm_serve`` is imported, and only then, ``vllm.utils`` has the function.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

NAME = "get_open_port"


def probe(module: ModuleType) -> Verdict:
    spec = module.__spec__
    read = getattr(spec.loader, "get_code", None) if spec else None
    if read is None or not spec:
        return Verdict.UNKNOWN
    names = read(spec.name).co_names
    # A body that asks for the release knows both places.
    if "vllm.utils" not in names or "vllm.utils.network_utils" in names or not find_spec("vllm"):
        return Verdict.FIXED
    utils = import_module("vllm.utils")
    # Asking the module itself for the name would bring vLLM 0.12's warning.
    if NAME in vars(utils) or NAME in Path(utils.__file__ or "").read_text(encoding="utf-8"):
        return Verdict.FIXED
    return Verdict.AFFECTED if hasattr(import_module("vllm.utils.network_utils"), NAME) else Verdict.UNKNOWN


def repair(_: ModuleType, changes: Changes) -> None:
    changes.replace(
        import_module("vllm.utils"), NAME, getattr(import_module("vllm.utils.network_utils"), NAME)
    )


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny, availability_flags
    from zoo_hooks.patches.vllm import guided_decoding_params

    with _tiny.mended(availability_flags.PATCH), _tiny.mended(guided_decoding_params.PATCH):
        serve = import_module("trl.scripts.vllm_serve")
    return Figure(f"{serve.__name__} is there", healthy=True)


PATCH = Patch(
    module=__name__,
    title="trl up to 0.27 imports get_open_port from vllm.utils, where vLLM 0.14 no longer has it",
    severity="crash",
    symptoms=("cannot import name 'get_open_port' from 'vllm.utils' @ trl",),
    targets=("trl.scripts.vllm_serve",),
    affects=("trl>=0.17.0,<0.28.0", "vllm>=0.14.0"),
    links=(
        "https://github.com/huggingface/trl/blob/v0.26.2/trl/scripts/vllm_serve.py#L63",
        "https://github.com/vllm-project/vllm/blob/v0.13.0/vllm/utils/__init__.py",
    ),
    measures="result of importing the module of trl vllm-serve (expected: trl.scripts.vllm_serve is there)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
