"""SFT trainers take TrainingArguments, and are handed the config that these mean."""

from __future__ import annotations

import contextlib

import pytest
import trl
from conftest import recorded
from transformers import TrainingArguments

import zoo_hooks
from zoo_hooks.patches.trl import _tiny, sft_training_arguments

PATCH = "trl/sft-training-arguments"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="this trl or transformers needs none")
ROWS = {"text": _tiny.PROMPTS}


def arguments(folder, kind=TrainingArguments, **more):
    return kind(
        str(folder), max_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True, bf16=False,
        save_strategy="no", **more,
    )  # fmt: skip


def test_a_step_is_made_and_the_arguments_are_as_they_were(tmp_path):
    """With the user's token, which the dictionary of the arguments hides."""
    args = arguments(tmp_path, hub_token="mine", learning_rate=0.5)
    before = args.to_dict()
    with _tiny.trainer("SFT", ROWS, _tiny.model(), args=args) as made:
        made.train()
        assert type(made.args) is trl.SFTConfig
        assert (made.args.hub_token, made.args.learning_rate, made.args.max_steps) == ("mine", 0.5, 1)
    assert args.to_dict() == before
    with zoo_hooks.disabled(PATCH), pytest.raises(KeyError, match="push_to_hub_token"):
        _tiny.trainer("SFT", ROWS, _tiny.model(), args=args).__enter__()


def test_arguments_to_which_another_library_has_put_the_token_back(tmp_path):
    """As Unsloth does, which mends the same bug so: the trainer is made, with the hooks as without."""

    class Mended(TrainingArguments):
        def to_dict(self):
            return {**super().to_dict(), sft_training_arguments.NAME: None}

    args = arguments(tmp_path, Mended)
    for without in (contextlib.nullcontext(), zoo_hooks.disabled(PATCH)):
        with without, _tiny.trainer("SFT", ROWS, _tiny.model(), args=args) as made:
            assert type(made.args) is trl.SFTConfig


def test_a_config_and_no_arguments_are_handed_on(tmp_path, monkeypatch):
    """By position and by keyword; a subclass of the config is one."""

    class Mine(trl.SFTConfig):
        pass

    own, seen = sft_training_arguments._own, []
    monkeypatch.chdir(tmp_path)
    assert own(trl.SFTConfig, None) is None
    for given in (arguments(tmp_path, trl.SFTConfig), arguments(tmp_path, Mine)):
        assert own(trl.SFTConfig, given) is given
    init = sft_training_arguments._with_config(
        lambda args: f"own {args}", lambda *a, **k: seen.append((a, k))
    )
    init("self", "model", "args", "collator")
    init("self", "model", args="args", other=1)
    init("self", model="model")
    assert seen == [
        (("self", "model", "own args", "collator"), {}),
        (("self", "model"), {"args": "own args", "other": 1}),
        (("self",), {"model": "model"}),
    ]


def test_a_subclass_of_the_trainer(tmp_path, monkeypatch):
    """Which hands its arguments on."""

    class Mine(trl.SFTTrainer):
        def __init__(self, model, args, **more):
            super().__init__(model, args, **more)

    monkeypatch.setattr(trl, "SFTTrainer", Mine)
    with _tiny.trainer("SFT", ROWS, _tiny.model(), args=arguments(tmp_path)) as made:
        assert type(made.args) is trl.SFTConfig
