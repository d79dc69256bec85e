"""A tokenizer loses its special tokens if its config has them under the old key and an empty new key.

Symptom
-------
A ``tokenizer_config.json`` lists ``additional_special_tokens`` beside an empty ``extra_special_tokens``.
transformers 4 and many training tools save it in this form. The tokenizer loads without these tokens, and
there is no error. Tokens that are not part of ``tokenizer.json``, such as ``<tool>``, are encoded as
``<unk>`` or split into pieces. Tokens that are part of it stay in the text despite ``skip_special_tokens``.

Cause
-----
``_from_pretrained`` moves the old list to the new key with ``setdefault``. This keeps the empty value of
the new key and discards the list.

Repair
------
If the new key is empty, zoo-hooks passes the list on under the new key, as releases from 5.18.0 on do.
Arguments of the caller take precedence over the config. Configs with tokens under both keys are left to
upstream.
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
    return Verdict.AFFECTED if f'init_kwargs.setdefault("{NEW}"'.encode() in source else Verdict.FIXED


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
    title="Special tokens are dropped if a tokenizer's config has an empty extra_special_tokens",
    severity="silent wrong result",
    targets=("transformers.tokenization_utils_base",),
    affects=("transformers>=5.1.0,<5.18.0",),
    links=("https://github.com/huggingface/transformers/issues/47838",),
    measures="special tokens of a tokenizer's config that are encoded as unknown, of 2 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
