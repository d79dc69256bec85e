"""The SFT trainer masks the prompts of chats, in one process and more, and leaves the tokenizer as it is."""

from __future__ import annotations

import pickle

import dill
import pytest
from conftest import recorded
from datasets import Dataset

import zoo_hooks
from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.trl import _chats, _tiny, sft_prompt_labels

PATCH = "trl/sft-prompt-labels"
AFFECTED = recorded(PATCH) == "AFFECTED"
affected = pytest.mark.skipif(not AFFECTED, reason="this release masks them, or knows no masks")
ROWS = {"prompt": _chats.TALK, "completion": _chats.ANSWERS}


def learnt(rows=ROWS, **more):
    """Tokens of each row of the first batch that are trained on."""
    return _tiny.batch("SFT", rows, _tiny.model(), **more)["labels"].ne(-100).sum(-1).tolist()


@affected
def test_only_the_completion_is_trained_on():
    """Three tokens of eight; six without the repair."""
    assert learnt() == [3, 3]
    with zoo_hooks.disabled(PATCH):
        assert learnt() == [6, 6]


@affected
@pytest.mark.parametrize("more", [{"dataset_num_proc": 2}, {"max_length": 32}])
def test_in_more_processes_and_with_other_settings(more):
    """The tokenizer that the workers are sent is the same."""
    assert learnt(**more) == [3, 3]


@affected
def test_rows_without_chats_and_whole_texts_are_as_before():
    """Text in two columns, and chats in one, of which all is trained on."""
    for rows in (
        {"prompt": ["a b c "] * 4, "completion": ["v w"] * 4},
        {"messages": [one + two for one, two in zip(_chats.TALK, _chats.ANSWERS, strict=True)]},
    ):
        seen = learnt(rows)
        with zoo_hooks.disabled(PATCH):
            assert learnt(rows) == seen


@affected
def test_what_was_tokenised_without_the_repair_is_not_taken_from_the_cache(tmp_path):
    """datasets keeps results by the functions and arguments that made them."""
    Dataset.from_dict(ROWS).save_to_disk(tmp_path)
    with zoo_hooks.disabled(PATCH):
        assert seen_on_disk(tmp_path) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert seen_on_disk(tmp_path) == [0] * 5 + [1] * 3


def seen_on_disk(folder):
    processing_class = _tiny.tokenizer()
    processing_class.chat_template = TEMPLATE
    rows = Dataset.load_from_disk(folder)
    with _tiny.trainer("SFT", ROWS, _tiny.model(), processing_class=processing_class) as made:
        return made._prepare_dataset(
            rows, processing_class, made.args, packing=False, formatting_func=None, dataset_name="train"
        )[0]["completion_mask"]


TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


def test_the_tokenizer_that_the_trainer_sees():
    """All else is the tokenizer's own; what a call asks for is what it gets."""
    plain = _tiny.tokenizer()
    plain.chat_template = TEMPLATE
    lists = _chats.Lists(plain)
    talk = _chats.TALK[0]
    tokens = plain.apply_chat_template(talk, return_dict=True)["input_ids"]
    for one in (lists, pickle.loads(pickle.dumps(lists)), dill.loads(dill.dumps(lists))):
        assert one.apply_chat_template(talk) == one.apply_chat_template(talk, tokenize=True) == tokens
        assert one.apply_chat_template(talk, tokenize=False) == "a b c d e "
        assert one.apply_chat_template(talk, return_dict=True)["input_ids"] == tokens
        assert one("a b")["input_ids"] == plain("a b")["input_ids"]
        assert one.eos_token == plain.eos_token
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lists.no_such_name


class Asking:
    def _prepare_dataset(self, dataset, processing_class):
        return processing_class.apply_chat_template(dataset, tools=None, return_dict=False, **self.more)


class NotAsking:
    def _prepare_dataset(self, dataset, processing_class):
        def tokenise(row):
            return processing_class.apply_chat_template(row["prompt"], tools=None, **row.get("more", {}))

        return [tokenise(row) for row in dataset], processing_class.apply_chat_template(
            dataset, return_dict=True
        )


class Textual:
    def _prepare_dataset(self, dataset, processing_class):
        return processing_class(dataset)


@affected
def test_the_probe_looks_at_each_call():
    """Also at those of functions inside; a trainer that asks is left alone."""
    assert [_chats.probe(kind) for kind in (Asking, NotAsking, Textual)] == [
        Verdict.FIXED,
        Verdict.AFFECTED,
        Verdict.FIXED,
    ]


@affected
def test_a_subclass_that_prepares_its_data_itself():
    """What it hands on to ours is tokenised as lists, also twice."""
    import trl

    class Mine(trl.SFTTrainer):
        def _prepare_dataset(self, dataset, processing_class, *args, **kwargs):
            self.seen = processing_class
            return super()._prepare_dataset(dataset, processing_class, *args, **kwargs)

    processing_class = _tiny.tokenizer()
    processing_class.chat_template = TEMPLATE
    changes = Changes()
    sft_prompt_labels.repair(__import__("sys").modules[sft_prompt_labels.PATCH.targets[0]], changes)
    with pytest.MonkeyPatch.context() as own:
        own.setattr(trl, "SFTTrainer", Mine)
        with _tiny.trainer("SFT", ROWS, _tiny.model(), processing_class=processing_class) as made:
            assert made.seen is made.processing_class is processing_class
            assert next(iter(made.get_train_dataloader()))["labels"].ne(-100).sum(-1).tolist() == [3, 3]
    changes.undo()
