"""A tokenizer's config does not choose which files are read."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

import zoo_hooks
from zoo_hooks.patches.transformers import _tokenizer_config

PATCH = "transformers/tokenizer-file-outside"
CLASSES = [AutoTokenizer, PreTrainedTokenizerFast]


@pytest.fixture
def outside(tmp_path):
    """A file of somebody else's."""
    return str(_tokenizer_config.saved(tmp_path / "private", ["secret", "word"]) / "tokenizer.json")


def applied():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def test_without_the_repair_an_affected_release_reads_it(measured):
    """Two words there, none with the repair or elsewhere."""
    row = measured(PATCH)
    assert row["with"] == 0
    assert row["without"] == (2 if row["status"] == "APPLIED" else 0)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("relative", [False, True])
def test_a_path_in_the_config_is_not_opened(tmp_path, outside, cls, relative):
    """The repository's own file is read."""
    path = "../private/tokenizer.json" if relative else outside
    where = _tokenizer_config.saved(tmp_path / "it", ["<unk>", "mine"], tokenizer_file=path)
    assert cls.from_pretrained(where).get_vocab() == {"<unk>": 0, "mine": 1}


def test_a_slow_tokenizers_vocabulary_is_its_own(tmp_path):
    """Though the config names another."""
    (tmp_path / "secret.txt").write_text("secret\n[UNK]\n")
    where = tmp_path / "it"
    where.mkdir()
    (where / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nmine\n")
    (where / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "BertTokenizer", "vocab_file": "{tmp_path / "secret.txt"}"}}'
    )
    assert "secret" not in BertTokenizer.from_pretrained(where).get_vocab()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_path_that_the_caller_passes_is_read(tmp_path, outside, cls):
    """It is his to choose."""
    where = _tokenizer_config.saved(tmp_path / "it", ["<unk>", "mine"])
    assert "secret" in cls.from_pretrained(where, tokenizer_file=outside).get_vocab()


def test_good_repositories_are_read_as_without_the_repair(tmp_path):
    """The same vocabulary."""
    where = _tokenizer_config.saved(tmp_path / "it", ["<unk>", "mine"])
    vocabulary = AutoTokenizer.from_pretrained(where).get_vocab()
    assert vocabulary == {"<unk>": 0, "mine": 1}
    if applied():
        with zoo_hooks.disabled(PATCH):
            assert AutoTokenizer.from_pretrained(where).get_vocab() == vocabulary
