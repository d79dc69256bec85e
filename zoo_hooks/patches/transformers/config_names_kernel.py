"""A model's config names a kernel of the Hub, whose code then runs (CVE-2026-4372).

Symptom
-------
With the package kernels installed, loading a model whose ``config.json`` says
``"_attn_implementation_internal": "somebody/something"``, or ``"_attn_implementation"``, downloads that
repository and imports it, without ``trust_remote_code`` and without a word.

Cause
-----
Whatever a config file holds becomes an attribute of the config, so also the place where the implementation
of attention is kept that a caller asks for, and any name of the form ``owner/repository`` there is taken
for a kernel. From 5.3.0 on only kernels-community is, unless the caller allows more.

Repair
------
A config file with such a name, in itself or in one of its parts, is refused with an error that shows it. To
use the kernel, delete the key from the file and pass ``attn_implementation``, which is not touched. Files
that say "sdpa", "eager" or the like load as ever.
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
    models = Path(module.__file__ or "").with_name("modeling_utils.py").read_text("utf-8")
    if "allow_all_kernels" in models or not ("get_kernel(" in models or "is_kernel(" in models):
        return Verdict.FIXED
    kept = config(**{KEYS[0]: "a/b"})._attn_implementation == "a/b"  # noqa: SLF001
    return Verdict.AFFECTED if kept and hasattr(config, READ) else Verdict.UNKNOWN


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
    from transformers import AutoConfig

    named = None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps({"model_type": "llama", KEYS[1]: "eager"}))
        AutoConfig.from_pretrained(folder)
        file.write_text(json.dumps({"model_type": "llama", KEYS[0]: "somebody/something"}))
        with suppress(_refused.Refused):
            named = AutoConfig.from_pretrained(folder)._attn_implementation  # noqa: SLF001
    return Figure(int(named is not None), healthy=named is None)


PATCH = Patch(
    module=__name__,
    title="A config file makes transformers run the code of a kernel repository",
    severity="security",
    guard=True,
    targets=("transformers.configuration_utils",),
    affects=("transformers>=4.52.1,<5.3.0",),
    links=("https://nvd.nist.gov/vuln/detail/CVE-2026-4372",),
    measures="kernels that a config file makes a model load (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
