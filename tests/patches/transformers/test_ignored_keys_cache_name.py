"""Who ignores the cache by one of its names ignores it by all of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from others import affected
from transformers.modeling_outputs import CausalLMOutputWithPast

import zoo_hooks
from zoo_hooks.patches.transformers import _foreign, ignored_keys_cache_name

PATCH = "transformers/ignored-keys-cache-name"
ROWS = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 2


class Config(transformers.LlamaConfig):
    """As they come with checkpoints."""

    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - as people write it


def trainer(folder, config=None, kind=transformers.LlamaForCausalLM):
    settings = transformers.TrainingArguments(
        str(folder), report_to="none", use_cpu=True, disable_tqdm=True, per_device_eval_batch_size=1
    )
    made = transformers.Trainer(kind((config or transformers.LlamaConfig)(**_foreign.SHAPE)), settings)
    made.model.config.use_cache = True
    return made


def shape(predicted):
    return tuple(getattr(predicted.predictions, "shape", ()))


def test_only_logits_are_gathered(tmp_path):
    """By what the config says, by what the caller says, by name and by position."""
    assert shape(trainer(tmp_path, Config).predict(ROWS)) == (2, 4, 64)
    plain = trainer(tmp_path)
    assert shape(plain.predict(ROWS, ignore_keys=["past_key_values"])) == (2, 4, 64)
    batch = {name: row[None] for name, row in ROWS[0].items()}
    assert plain.prediction_step(plain.model, batch, False, ["past_key_values"])[1].shape == (1, 4, 64)  # noqa: FBT003
    assert plain.prediction_step(plain.model, batch, prediction_loss_only=True)[1:] == (None, None)


def test_an_output_of_others_with_its_own_field_is_ignored_too(tmp_path):
    """By what upstream ignores where nothing is said."""

    @dataclass
    class Output(CausalLMOutputWithPast):
        past_key_values: Any = None

    class Model(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, labels=None, **kwargs):
            output = super().forward(input_ids, labels=labels, **kwargs)
            return Output(loss=output.loss, logits=output.logits, past_key_values=output.past_key_values)

    assert shape(trainer(tmp_path, kind=Model).predict(ROWS)) == (2, 4, 64)


def test_what_was_handed_over_stays_as_it_is(tmp_path):
    """Lists of callers and configs are not written to; other names mean what they mean."""
    keys = ["past_key_values"]
    made = trainer(tmp_path, Config)
    made.predict(ROWS, ignore_keys=keys)
    made.predict(ROWS)
    assert keys == Config.keys_to_ignore_at_inference == ["past_key_values"]
    made.model.config.use_cache = False
    batch = {name: row[None] for name, row in ROWS[0].items()}
    assert made.prediction_step(made.model, batch, False, ["logits"])[1] == ()  # noqa: FBT003


def test_a_name_that_upstream_gives_its_argument_is_taken(tmp_path):
    """Handed on by it, or by its name of today behind a decorator that takes both, it comes as it was."""
    made, seen = trainer(tmp_path, Config), []

    def renamed(self, model, inputs, prediction_loss_only, ignored=None):
        seen.append(ignored)

    @functools.wraps(renamed)
    def both(*args, **kwargs):
        kwargs = {{"ignore_keys": "ignored"}.get(key, key): value for key, value in kwargs.items()}
        return renamed(*args, **kwargs)

    for original in (renamed, both):
        step = ignored_keys_cache_name._ignoring(original)
        step(made, made.model, {}, False, ignored=["cache_params", "x"])  # noqa: FBT003
        step(made, made.model, {}, False)  # noqa: FBT003
    step(made, made.model, {}, False, ignore_keys=["x"])  # noqa: FBT003
    names = ["past_key_values", "cache", "cache_params"]
    assert [set(each) for each in seen] == [{"x", *names}, set(names)] * 2 + [{"x"}]


def test_the_symptom_is_back_while_it_is_disabled(tmp_path):
    """On an affected release; on others nothing changes."""
    made, mended = trainer(tmp_path, Config), affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        if mended:
            with pytest.raises(TypeError, match="DynamicCache"):
                made.predict(ROWS)
        else:
            assert shape(made.predict(ROWS)) == (2, 4, 64)
