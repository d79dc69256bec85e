"""A tokenizer loses its special tokens where its config has them under the old name and none under the new.

Symptom
-------
A ``tokenizer_config.json`` that lists ``additional_special_tokens`` and has an empty
``extra_special_tokens`` beside it, as transformers 4 and many training tools save it, loads without these
tokens. No error: where they are not part of ``tokenizer.json``, ``<tool>`` and the like are read as
``<unk>`` or as pieces; where they are, ``skip_special_tokens`` keeps them in the text.

Cause
-----
``_from_pretrained`` moves the old list to the new name by ``setdefault``, which keeps the empty value there
and throws the list away.

Repair
------
Where the new name has nothing, the list under the old name is handed on under the new one, as from 5.18.0
on. What the caller passes goes before what the config says. Configs with tokens under both names are left
to upstream.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tokenizer_config

OLD, NEW = "additional_special_tokens", "extra_special_tokens"


def probe(module: ModuleType) -> Verdict:
    source = _tokenizer_config.source(module.PreTrainedTokenizerBase)
    return Verdict.AFFECTED if f'init_kwargs.setdefault("{NEW}"' in source else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.PreTrainedTokenizerBase, "_from_pretrained", _tokenizer_config.saying(_kept))


def _kept(_: dict[str, Any], said: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    both = {**said, **asked}
    return {NEW: both[OLD]} if both.get(OLD) and not both.get(NEW, True) else {}


def canary() -> Figure:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        more = {OLD: ["<tool>", "<end>"], NEW: {}}
        where = _tokenizer_config.saved(Path(folder, "it"), ["<unk>", "a", "b"], **more)
        ids = AutoTokenizer.from_pretrained(where)("a <tool> b <end>")["input_ids"]
    return Figure(ids.count(0), healthy=ids.count(0) == 0)


PATCH = Patch(
    module=__name__,
    title="Special tokens are dropped where a tokenizer's config has both names for them",
    severity="silent wrong result",
    targets=("transformers.tokenization_utils_base",),
    affects=("transformers>=5.1.0,<5.18.0",),
    links=("https://github.com/huggingface/transformers/issues/47838",),
    measures="special tokens of a config that are read as unknown (of 2; expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
