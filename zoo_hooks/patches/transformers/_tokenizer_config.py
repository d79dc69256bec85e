"""What ``tokenizer_config.json`` says, as ``PreTrainedTokenizerBase._from_pretrained`` reads it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo_hooks.patches import _known

More = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], dict[str, Any]]
"""Given the files of a repository, what its config says, and what the caller says: what to say besides."""
FILE = "tokenizer_config_file"


def saying(more: More) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A wrapper of ``_from_pretrained`` that hands on what ``more`` says as if the caller had said it."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def from_pretrained(
            cls: Any, files: Any, name: Any, configuration: Any, *args: Any, **kwargs: Any
        ) -> Any:
            file = files.get(FILE)
            said = json.loads(Path(file).read_text("utf-8")) if file else configuration
            kwargs |= more(files, said, kwargs)
            return original(cls, files, name, configuration, *args, **kwargs)

        return from_pretrained

    return wrap


def source(base: Any) -> bytes:
    """The text of the method, which must not be run to try it, for up to 4.57 it may ask the Hub."""
    return _known.text(inspect.unwrap(base._from_pretrained.__func__))  # noqa: SLF001


def saved(folder: Path, words: list[str], **said: Any) -> Path:
    """A repository with a tokenizer of these words, and a config that says this besides."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    known = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=words[0]))
    known.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=known, unk_token=words[0]).save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **said}))
    return folder
