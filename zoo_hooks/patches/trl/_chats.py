"""Trainers of trl that expect the token ids of a chat as a list, where transformers 5 returns a dictionary.

From 5.0.0 on, ``apply_chat_template`` of tokenizers has ``return_dict=True`` as its default. While a trainer
prepares a dataset, it gets a tokenizer whose default is still False. Calls that pass ``return_dict``, and
calls for text, work as before. datasets does not reuse a cached dataset that was tokenized in the other way.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict

PREPARE, NAME = "_prepare_dataset", "return_dict"
TALK = [[{"role": "user", "content": "a b c d e"}]] * 4
ANSWERS = [[{"role": "assistant", "content": "v w x"}]] * 4
OTHERS = [[{"role": "assistant", "content": "y z"}]] * 4


def probe(trainer: Any) -> Verdict:
    from transformers import PreTrainedTokenizerBase

    default = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters[NAME].default
    if not default or not hasattr(trainer, PREPARE):  # as earlier trainers, which make text of chats
        return Verdict.FIXED
    prepare = inspect.unwrap(getattr(trainer, PREPARE))
    return Verdict.FIXED if all(_asked(prepare.__code__)) else Verdict.AFFECTED


def _asked(code: CodeType) -> Iterator[bool]:
    """For each call of apply_chat_template, also in inner functions: whether it passes return_dict."""
    calls: list[bool] = []
    for one in dis.get_instructions(code):
        if one.argval == "apply_chat_template" and one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            calls.append(False)
        elif calls and (one.argval == NAME or (isinstance(one.argval, tuple) and NAME in one.argval)):
            calls[-1] = True  # its keywords are loaded after it, one by one or together
    yield from calls
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _asked(inner)


def repair(trainer: Any, changes: Changes) -> None:
    changes.wrap(trainer, PREPARE, _with_lists)


def _with_lists(original: Callable[..., Any]) -> Callable[..., Any]:
    def _prepare_dataset(self: Any, dataset: Any, processing_class: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, dataset, Lists(processing_class), *args, **kwargs)

    return _prepare_dataset


class Lists:
    """A tokenizer or processor that returns the tokens of a chat as a list unless asked otherwise."""

    def __init__(self, processing_class: Any) -> None:
        self.processing_class = processing_class

    def __getattr__(self, name: str) -> Any:
        if name == "processing_class":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.processing_class, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.processing_class(*args, **kwargs)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return self.processing_class.apply_chat_template(*args, **{NAME: False, **kwargs})
