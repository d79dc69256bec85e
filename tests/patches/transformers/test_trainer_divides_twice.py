"""Gradients of Trainer are those of one batch, where accelerate knows of several too."""

from __future__ import annotations

import pytest
import torch
import transformers
from accumulated import compared, rows, step
from conftest import recorded

import zoo_hooks
from zoo_hooks.patches.transformers import trainer_divides_twice as patch

PATCH = "transformers/trainer-divides-twice"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="nothing divides twice here")
SIZES = {
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
TEXTS = torch.arange(1, 17).reshape(4, 4) % 16
LABELS = TEXTS.clone()
LABELS[0, 2:] = LABELS[1, 3:] = -100  # the batches have different numbers of items


def loss_of(logits, labels, **how):
    return torch.nn.functional.cross_entropy(logits.reshape(-1, 16), labels.reshape(-1), **how)


def seeded(make):
    torch.manual_seed(0)
    return make()


def llama(kind="LlamaForCausalLM"):
    return getattr(transformers, kind)(transformers.LlamaConfig(**SIZES))


class Few(torch.nn.Module):
    """A model without ``**kwargs``: Trainer divides."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(16, 16)

    def forward(self, input_ids=None, labels=None):
        return {"loss": loss_of(self.embed(input_ids), labels)}


class Dropping(Few):
    """A model that gets the number of items and does not use it."""

    def forward(self, input_ids=None, labels=None, **kwargs):  # noqa: ARG002
        return {"loss": loss_of(self.embed(input_ids), labels)}


class Uncounted(transformers.Trainer):
    def get_batch_samples(self, *args, **kwargs):
        return super().get_batch_samples(*args, **kwargs)[0], None


class Computing(transformers.Trainer):
    """A trainer that divides by itself."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # noqa: ARG002, FBT002
        return own(model(input_ids=inputs["input_ids"]), inputs["labels"], num_items_in_batch)


class Delegating(transformers.Trainer):
    def compute_loss(self, model, inputs, **kwargs):
        return super().compute_loss(model, inputs, **kwargs)


class Ignoring(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # noqa: ARG002, FBT002
        return model(**inputs)["loss"]


class Saying(Ignoring):
    """It says, after it was created, that it does not use the number of items."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False


class Refusing(Ignoring):
    """As trl's GRPO trainer does, it divides by itself and says so with a text."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_loss_func="non-None value to disable scaling", **kwargs)

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) / self.current_gradient_accumulation_steps


class Correcting(transformers.Trainer):
    """A trainer of a user who has seen the bug."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) * self.args.gradient_accumulation_steps


def own(outputs, labels, num_items_in_batch=None):
    return loss_of(outputs.logits[:, :-1], labels[:, 1:], reduction="sum") / num_items_in_batch


def ignoring(outputs, labels, num_items_in_batch=None):
    return loss_of(outputs.logits[:, :-1], labels[:, 1:])


def batches(trainer):
    return trainer.accelerator.gradient_accumulation_steps


def times(make, folder, labels=LABELS, size=2, **more):
    """The gradient in batches of that size, times that of one batch."""
    ratio, _, trainer = compared(lambda: seeded(make), rows(TEXTS, labels), folder, size, **more)
    assert batches(trainer) == 4 // size  # as upstream has set it
    return ratio


HALVED = {
    "language model": (llama, {}),
    "no number of items": (llama, {"kind": Uncounted, "labels": TEXTS}),
    "without keywords": (Few, {"labels": TEXTS}),
    "own method": (llama, {"kind": Computing}),
    "handing on": (llama, {"kind": Delegating}),
    "own function": (llama, {"compute_loss_func": own}),
    "said later": (llama, {"kind": Saying, "labels": TEXTS}),
    "by itself": (llama, {"kind": Refusing, "labels": TEXTS}),
}


@pytest.mark.parametrize("case", HALVED)
def test_the_gradient_is_that_of_one_batch(case, tmp_path):
    """Without the repair it is that divided by the number of batches."""
    make, more = HALVED[case]
    assert times(make, tmp_path, **more) == 1.0
    with zoo_hooks.disabled(PATCH):
        assert times(make, tmp_path, **more) == 0.5


def test_four_batches(tmp_path):
    """It is divided by their number."""
    assert times(llama, tmp_path, labels=TEXTS, size=1) == 1.0
    with zoo_hooks.disabled(PATCH):
        assert times(llama, tmp_path, labels=TEXTS, size=1) == 0.25


RIGHT = {
    "classifier": (lambda: llama("LlamaForSequenceClassification"), {"labels": torch.tensor([0, 1, 0, 1])}),
    "dropping": (Dropping, {"labels": TEXTS}),
    "label smoothing": (llama, {"labels": TEXTS, "given": {"label_smoothing_factor": 0.1}}),
    "ignoring method": (llama, {"labels": TEXTS, "kind": Ignoring}),
    "ignoring function": (llama, {"labels": TEXTS, "compute_loss_func": ignoring}),
    "corrected by the user": (llama, {"labels": TEXTS, "kind": Correcting}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_gradients_that_are_right_stay_so(case, tmp_path):
    """Of losses that nobody else divides, with the repair and without."""
    make, more = RIGHT[case]
    assert times(make, tmp_path, **more) == 1.0
    with zoo_hooks.disabled(PATCH):
        assert times(make, tmp_path, **more) == 1.0


def test_an_adapter(tmp_path):
    """Its base model is asked."""
    peft = pytest.importorskip("peft")

    def adapted():
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
        model = llama()
        torch.manual_seed(1)
        return peft.get_peft_model(model, config)

    assert times(adapted, tmp_path) == 1.0


def test_a_step_that_fails_leaves_the_number_of_batches(tmp_path):
    """As upstream has set it."""

    seen = []

    class Failing(transformers.Trainer):
        def compute_loss(self, *_, num_items_in_batch=None, **__):
            seen.extend([self, batches(self)])
            raise ArithmeticError(num_items_in_batch)

    with pytest.raises(ArithmeticError):
        step(llama(), 2, rows(TEXTS, TEXTS), tmp_path, kind=Failing)
    assert (seen[1], batches(seen[0])) == (1, 2)


def test_functions_that_use_a_name():
    """By it, or by the keywords among which it is."""
    assert patch._told(patch._code(own), patch.ITEMS)
    assert not patch._told(patch._code(ignoring), patch.ITEMS)
    assert patch._told(patch._code(Delegating.compute_loss), patch.ITEMS)
    assert not patch._told(patch._code(Ignoring.compute_loss), patch.ITEMS)
    assert not patch._told(patch._code(torch.nn.Identity()), patch.ITEMS)
    assert patch._told(patch._code(Correcting.compute_loss), patch.STEPS)
