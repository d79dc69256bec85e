"""A tokenizer's config can name a vocabulary file anywhere on the machine, which is then read.

Symptom
-------
Loading a tokenizer from a repository whose ``tokenizer_config.json`` says ``"tokenizer_file":
"/home/me/private.json"`` opens that file instead of the repository's own, and ``save_pretrained`` or
``push_to_hub`` then publishes what was in it. The same holds of ``vocab_file``, ``merges_file`` and every
other file of a vocabulary.

Cause
-----
``_from_pretrained`` puts the path of a file that it has found in the repository into the tokenizer's
arguments only where the config does not name one already.

Repair
------
The repository's file goes before what its config says, as from 5.13.0 on, and only a path that the caller
passes goes before both. What the config said is told once: old configs hold paths of the machine on which
they were saved. A path that the repository has no file for is dropped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tokenizer_config

APART = ("tokenizer_config_file", "added_tokens_file", "special_tokens_map_file", "chat_template_file")
"""What is read by upstream itself, and is no argument of a tokenizer."""


def probe(module: ModuleType) -> Verdict:
    source = _tokenizer_config.source(module.PreTrainedTokenizerBase)
    if "if args_name not in init_kwargs" in source:
        return Verdict.AFFECTED
    return Verdict.FIXED if "if args_name not in kwargs" in source else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def inside(files: dict[str, Any], said: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        named = [name for name in files if said.get(name) and name not in APART and asked.get(name) is None]
        for name in named:
            changes.tell(
                f"tokenizer_config.json names {said[name]!r} as its {name}, which is not its to choose "
                f"(CWE-22); what the repository has is read instead: {files[name]}"
            )
        return {name: files[name] for name in named}

    changes.wrap(module.PreTrainedTokenizerBase, "_from_pretrained", _tokenizer_config.saying(inside))


def canary() -> Figure:
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        outside = _tokenizer_config.saved(Path(folder, "private"), ["secret", "word"]) / "tokenizer.json"
        where = _tokenizer_config.saved(Path(folder, "it"), ["<unk>", "a"], tokenizer_file=str(outside))
        read = PreTrainedTokenizerFast.from_pretrained(where).get_vocab()
    count = len({"secret", "word"} & set(read))
    return Figure(count, healthy=count == 0)


PATCH = Patch(
    module=__name__,
    title="A tokenizer's config makes transformers read a vocabulary file outside of its repository",
    severity="security",
    guard=True,
    targets=("transformers.tokenization_utils_base",),
    affects=("transformers<5.13.0",),
    links=("https://github.com/huggingface/transformers/pull/46279",),
    measures="words that were read from a file outside of the repository (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
