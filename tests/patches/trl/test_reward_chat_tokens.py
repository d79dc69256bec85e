"""The reward trainer takes chats."""

from __future__ import annotations

import pytest
from conftest import recorded

import zoo_hooks
from zoo_hooks.patches.trl import _chats, _tiny

PATCH = "trl/reward-chat-tokens"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with trl 0.24")
CHATS = {"chosen": _chats.ANSWERS, "rejected": _chats.OTHERS}
TEXTS = {"chosen": ["v w x"] * 4, "rejected": ["y z"] * 4}


def tokens(rows):
    model = _tiny.model("LlamaForSequenceClassification", num_labels=1)
    return _tiny.batch("Reward", rows, model)["input_ids"]


def test_chats_become_tokens():
    """Three and two of each pair; without the repair the batch cannot be made."""
    assert tokens(CHATS).ne(0).sum(-1).tolist() == [3, 3, 2, 2]
    with zoo_hooks.disabled(PATCH), pytest.raises(RuntimeError, match="Could not infer dtype of dict"):
        tokens(CHATS)


def test_a_prompt_goes_before_both():
    """As another column of chats."""
    assert tokens({"prompt": _chats.TALK, **CHATS}).ne(0).sum(-1).tolist() == [8, 8, 7, 7]


def test_texts_are_as_before():
    """With an end of sequence each."""
    seen = tokens(TEXTS)
    with zoo_hooks.disabled(PATCH):
        assert tokens(TEXTS).equal(seen)
