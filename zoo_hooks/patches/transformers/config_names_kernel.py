"""A model's config file can make transformers download and run code from the Hub (CVE-2026-4372).

Symptom
-------
The package kernels is installed, and a model is loaded whose ``config.json`` contains
``"_attn_implementation_internal": "owner/repository"``. transformers downloads that repository and imports
it, without ``trust_remote_code`` and without a warning. The key ``"_attn_implementation"`` has the same
effect.

Cause
-----
Every key of a config file becomes an attribute of the config. One of these attributes stores the attention
implementation that the caller asked for. transformers treats any name of the form ``owner/repository`` in
it as a kernel. From 5.3.0 on it accepts only kernels-community, unless the caller allows more.

Repair
------
zoo-hooks refuses a config file that contains such a name, at the top level or in a nested config. The error
shows the name. To use the kernel, delete the key from the file and pass ``attn_implementation``, which is
not affected. Files that contain "sdpa", "eager" or the like load as before.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _refused

KEYS = ("_attn_implementation_internal", "_attn_implementation")
READ = "_dict_from_json_file"


def _config(module: ModuleType) -> Any:
    return getattr(module, "PreTrainedConfig", None) or module.PretrainedConfig


def probe(module: ModuleType) -> Verdict:
    config = _config(module)
    models = _models(module)
    if b"allow_all_kernels" in models or not _loads_kernels(models):
        return Verdict.FIXED
    kept = config(**{KEYS[0]: "a/b"})._attn_implementation == "a/b"  # noqa: SLF001
    return Verdict.AFFECTED if kept and hasattr(config, READ) else Verdict.UNKNOWN


def _models(module: ModuleType) -> bytes:
    return Path(module.__file__ or "").with_name("modeling_utils.py").read_bytes()


def _loads_kernels(models: bytes) -> bool:
    """Before 4.52 a name in a config was kept, and refused when the model was made."""
    return b"get_kernel(" in models or b"is_kernel(" in models


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(_config(module), READ, _refusing)


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    def read(cls: Any, json_file: Any) -> Any:
        said = original(cls, json_file)
        for key, name in _kernels(said):
            raise _refused.Refused(
                f"{json_file} says {key}: {name!r}, which would run the code of that repository without "
                "consent (CVE-2026-4372). Pass attn_implementation if it is what you want"
            )
        return said

    return read


def _kernels(said: Any) -> Iterator[tuple[str, str]]:
    if isinstance(said, dict):
        yield from ((key, said[key]) for key in KEYS if "/" in str(said.get(key)))
        for part in said.values():
            yield from _kernels(part)


def canary() -> Figure:
    """Reads a good file first, which must not raise."""
    from transformers import AutoConfig, configuration_utils

    named = None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps({"model_type": "llama", KEYS[1]: "eager"}))
        AutoConfig.from_pretrained(folder)
        file.write_text(json.dumps({"model_type": "llama", KEYS[0]: "somebody/something"}))
        with suppress(_refused.Refused):
            named = AutoConfig.from_pretrained(folder)._attn_implementation  # noqa: SLF001
    runs = named is not None and _loads_kernels(_models(configuration_utils))
    return Figure(int(runs), healthy=not runs)


PATCH = Patch(
    module=__name__,
    title="A config file can make transformers run code from a kernel repository",
    severity="security",
    guard=True,
    targets=("transformers.configuration_utils",),
    affects=("transformers>=4.52.1,<5.3.0",),
    links=("https://nvd.nist.gov/vuln/detail/CVE-2026-4372",),
    measures="kernel names that are accepted from a config file (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
