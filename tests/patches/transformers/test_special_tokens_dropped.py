"""A tokenizer has the special tokens that its config lists, under whichever name."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import zoo_hooks
from zoo_hooks.patches.transformers import _tokenizer_config

PATCH = "transformers/special-tokens-dropped"
OLD, NEW = "additional_special_tokens", "extra_special_tokens"
WORDS = ["<unk>", "a", "b"]


def read(folder, asked=None, cls=AutoTokenizer, **said):
    where = _tokenizer_config.saved(folder / "it", WORDS, **said)
    return cls.from_pretrained(where, **(asked or {}))


def test_without_the_repair_an_affected_release_reads_them_as_unknown(measured):
    """Both of two there, and none with the repair or elsewhere."""
    row = measured(PATCH)
    assert row["with"] == 0
    assert row["without"] == (2 if row["status"] == "APPLIED" else 0)


@pytest.mark.parametrize("empty", [{}, []])
@pytest.mark.parametrize("cls", [AutoTokenizer, PreTrainedTokenizerFast])
def test_a_list_under_the_old_name_is_read(tmp_path, empty, cls):
    """Its tokens have ids and are special, also where they are written with their properties."""
    full = {"__type": "AddedToken", "content": "<end>", "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False, "special": True}  # fmt: skip
    some = read(tmp_path, cls=cls, **{OLD: ["<tool>", full], NEW: empty})
    ids = some("a <tool> b <end>")["input_ids"]
    assert ids == [1, 3, 2, 4]
    assert some.decode(ids, skip_special_tokens=True).split() == ["a", "b"]
    assert {"<tool>", "<end>"} <= set(some.all_special_tokens)


def test_what_is_loaded_is_kept_when_it_is_saved(tmp_path):
    """Saved and loaded again it has the tokens."""
    read(tmp_path, **{OLD: ["<tool>"], NEW: {}}).save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again")("<tool>")["input_ids"] == [3]


def test_what_the_caller_says_goes_first(tmp_path):
    """Under either name."""
    one = read(tmp_path / "1", {OLD: ["<mine>"]}, **{OLD: ["<tool>"], NEW: {}})
    assert "<mine>" in one.get_vocab()
    assert "<tool>" not in one.get_vocab()


@pytest.mark.parametrize("said", [{}, {OLD: ["<tool>"]}, {NEW: ["<tool>"]}, {OLD: [], NEW: {}}, {NEW: {}},
                                  {OLD: ["<tool>"], NEW: ["<more>"]}])  # fmt: skip
def test_other_configs_are_read_as_without_the_repair(tmp_path, said):
    """The same vocabulary and the same special tokens."""
    some = read(tmp_path / "1", **said)
    if zoo_hooks.report()[PATCH].status.name == "APPLIED":
        with zoo_hooks.disabled(PATCH):
            plain = read(tmp_path / "2", **said)
        assert some.get_vocab() == plain.get_vocab()
        assert some.all_special_tokens == plain.all_special_tokens
