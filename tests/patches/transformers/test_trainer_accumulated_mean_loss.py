"""Gradients and logged losses of Trainer do not depend on the number of batches that make a step."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformers
from accumulated import compared, rows
from conftest import recorded

import zoo_hooks
from zoo_hooks.patches.transformers import _loss_items
from zoo_hooks.patches.transformers import trainer_accumulated_mean_loss as patch

PATCH = "transformers/trainer-accumulated-mean-loss"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="gradients of this release are right")
SIZES = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "pad_token_id": 0,
}  # fmt: skip
BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HEADS = ["SequenceClassification", "TokenClassification"]


def llama(head):
    kind = getattr(transformers, f"LlamaFor{head}")
    return seeded(kind, transformers.LlamaConfig(**SIZES, num_key_value_heads=2, classifier_dropout=0.0))


def bert(head):
    return seeded(getattr(transformers, f"BertFor{head}"), transformers.BertConfig(**SIZES, **BERT))


def seeded(kind, config):
    torch.manual_seed(0)
    return kind(config)


def data(head):
    texts = torch.arange(1, 13).reshape(4, 3)
    labels = {"SequenceClassification": [0, 1, 0, 1], "TokenClassification": texts % 2, "CausalLM": texts}
    return rows(texts, labels[head])


def times(make, head, folder, size=2, **more):
    """Gradient and loss of a step in batches of that size, times those in one batch."""
    ratio, *trainers = compared(lambda: make(head), data(head), folder, size, **more)
    loss, logged = (one.state.log_history[0]["loss"] for one in trainers)
    return ratio, round(logged / loss, 2)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("make", [llama, bert])
def test_the_losses_of_all_batches_are_averaged(make, head, tmp_path):
    """Of heads that are shared and of those that compute a loss themselves, where they take any keywords."""
    assert times(make, head, tmp_path, size=1) == (1.0, 1.0)
    if _loss_items.drops(type(make(head)).forward):
        with zoo_hooks.disabled(PATCH):
            assert times(make, head, tmp_path, size=1) == (4.0, 4.0)


def test_an_adapter_of_such_a_model(tmp_path):
    """Trainer looks at the base model."""
    peft = pytest.importorskip("peft")

    def adapted(head):
        config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)
        model = llama(head)
        torch.manual_seed(1)
        return peft.get_peft_model(model, config)

    assert times(adapted, HEADS[0], tmp_path) == (1.0, 1.0)


def test_a_language_model_divides_by_itself(tmp_path):
    """It is left alone: the trainer still hands it the number of items."""
    assert times(llama, "CausalLM", tmp_path) == (1.0, 1.0)
    assert not patch._means(llama("CausalLM"))
    args = transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    assert transformers.Trainer(model=llama("CausalLM"), args=args).model_accepts_loss_kwargs


def test_label_smoothing(tmp_path):
    """It is divided by Trainer where it does not get the number of items."""
    smooth = transformers.trainer_pt_utils.LabelSmoother
    given = {"label_smoothing_factor": 0.1}
    assert times(llama, "CausalLM", tmp_path, size=1, given=given) == (1.0, 1.0)
    if "num_items_in_batch" not in inspect.signature(smooth.__call__).parameters:
        with zoo_hooks.disabled(PATCH):
            assert times(llama, "CausalLM", tmp_path, size=1, given=given) == (4.0, 4.0)


class Computing(transformers.Trainer):
    """A trainer that divides by itself."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # noqa: ARG002, FBT002
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


def test_trainers_that_compute_the_loss_are_left_alone(tmp_path):
    """By a method of their own, or by a function of the user's."""
    head = HEADS[0]

    def own(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    assert times(llama, head, tmp_path, kind=Computing) == (1.0, 1.0)
    assert times(llama, head, tmp_path, compute_loss_func=own) == (1.0, 1.0)


class Said(transformers.LlamaForSequenceClassification):
    """A model that says what it does, and one that does it."""

    accepts_loss_kwargs = True


class Handing(torch.nn.Module):
    def forward(self, labels=None, **kwargs):
        loss = self.loss_function(labels.view(-1), **kwargs)
        return loss, self.other(labels)


class Counting(torch.nn.Module):
    def forward(self, labels=None, **kwargs):
        return torch.nn.CrossEntropyLoss(reduction="sum")(labels) / kwargs["num_items_in_batch"]


class Dropping(torch.nn.Module):
    def forward(self, labels=None, **kwargs):
        states = self.base(labels, **kwargs)
        loss = self.loss_function(states.view(-1), labels=labels.view(-1))
        return self.output(loss, **kwargs)


class Few(torch.nn.Module):
    def forward(self, labels=None):
        return self.loss_function(labels)


def test_what_is_taken_for_dropping_keywords():
    """Only a loss that is computed and handed none; and only in models of transformers that say nothing."""
    taken = {kind.__name__: _loss_items.drops(kind.forward) for kind in (Handing, Counting, Dropping, Few)}
    assert taken == {"Handing": False, "Counting": False, "Dropping": True, "Few": False}
    assert not _loss_items.drops(transformers.LlamaModel.forward)
    assert not patch._means(Dropping())
    assert not patch._means(seeded(Said, transformers.LlamaConfig(**SIZES, num_key_value_heads=2)))
    assert patch._means(llama(HEADS[0]))
