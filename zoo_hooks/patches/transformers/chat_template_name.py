"""Saving a tokenizer or processor can write files outside of the target folder (CVE-2026-9856).

Symptom
-------
A tokenizer was loaded from an untrusted ``tokenizer_config.json``. Its ``save_pretrained`` can then write
files outside of the given folder. A chat template with the name ``../../.bashrc`` becomes ``.bashrc.jinja``
in the parent of that folder, and the config determines its content. ``Trainer`` saves the tokenizer with
each checkpoint.

Cause
-----
From 4.52 on, each named chat template is written to ``additional_chat_templates/<name>.jinja``. The name is
not checked.

Repair
------
If the name of a template is not that of a plain file, saving raises an error that shows the name, as
upstream does from 5.10.0 on. Templates with other names are saved as before. With
``save_jinja_files=False`` all templates are saved within ``tokenizer_config.json`` as before, whatever
their names.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom
from zoo_hooks.patches.transformers import _refused, _tokenizer_config

SAVING = {"PreTrainedTokenizerBase": "save_chat_templates", "ProcessorMixin": "save_pretrained"}


def _place(module: ModuleType) -> tuple[Any, str]:
    return next((vars(module)[cls], name) for cls, name in SAVING.items() if cls in vars(module)
                and vars(module)[cls].__module__ == module.__name__)  # fmt: skip


def probe(module: ModuleType) -> Verdict:
    owner, name = _place(module)
    code = inspect.unwrap(getattr(owner, name, probe)).__code__
    if "CHAT_TEMPLATE_DIR" not in code.co_names:
        return Verdict.FIXED
    return Verdict.FIXED if "Invalid chat template name" in repr(code.co_consts) else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(*_place(module), _refusing)


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    whole = "save_jinja_files" in inspect.signature(original).parameters

    def save(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(self, *args, **kwargs).arguments if whole else kwargs
        if given.get("save_jinja_files", True) and isinstance(self.chat_template, dict):
            for name in self.chat_template:
                file = f"{name}.jinja"
                if Path(file).name != file:
                    raise _refused.Refused(
                        f"Invalid chat template name: {name!r}. It would be written outside of the folder "
                        "(CVE-2026-9856)"
                    )
        return original(self, *args, **kwargs)

    return save


def canary() -> Figure:
    """Saves good templates first, which must not raise."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        where = _tokenizer_config.saved(Path(folder, "it"), ["<unk>", "a"])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(where)
        tokenizer.chat_template = {"default": "x", "tools": "y"}
        tokenizer.save_pretrained(Path(folder, "good"))
        tokenizer.chat_template = {"default": "x", "../../escaped": "y"}
        with symptom(ValueError, "Invalid chat template name"):  # ours, or upstream's own
            tokenizer.save_pretrained(Path(folder, "deep", "save"))
        count = len({*Path(folder).rglob("escaped*")})
    return Figure(count, healthy=count == 0)


PATCH = Patch(
    module=__name__,
    title="A chat template's name can make save_pretrained write outside of its folder",
    severity="security",
    guard=True,
    targets=("transformers.tokenization_utils_base", "transformers.processing_utils"),
    affects=("transformers>=4.52.1,<5.10.0",),
    links=(
        "https://github.com/huggingface/transformers/pull/46191",
        "https://nvd.nist.gov/vuln/detail/CVE-2026-9856",
    ),
    measures="files that saving a tokenizer creates outside of the target folder (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
