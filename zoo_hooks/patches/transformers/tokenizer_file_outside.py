"""A tokenizer's config can make transformers read a vocabulary file from anywhere on the machine.

Symptom
-------
The ``tokenizer_config.json`` of a repository says ``"tokenizer_file": "/home/me/private.json"``. Loading
the tokenizer opens that file instead of the repository's own. ``save_pretrained`` or ``push_to_hub`` then
publishes its contents. The same holds for ``vocab_file``, ``merges_file`` and every other vocabulary file.

Cause
-----
``_from_pretrained`` adds the path of a file that it found in the repository to the tokenizer's arguments
only if the config does not name one already.

Repair
------
The repository's file takes precedence over the path in the config, as in releases from 5.13.0 on. Only a
path that the caller passes takes precedence over both. If the repository has no such file, the config's
path is dropped. A warning with the config's path is logged once. Such a path need not be an attack: old
configs hold paths of the machine on which they were saved.
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
    if b"if args_name not in init_kwargs" in source:
        return Verdict.AFFECTED
    return Verdict.FIXED if b"if args_name not in kwargs" in source else Verdict.UNKNOWN


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
    title="A tokenizer's config can make transformers read a vocabulary file outside its repository",
    severity="security",
    guard=True,
    targets=("transformers.tokenization_utils_base",),
    affects=("transformers<5.13.0",),
    links=("https://github.com/huggingface/transformers/pull/46279",),
    measures="words read from a vocabulary file outside the repository (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
