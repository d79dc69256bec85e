"""What must hold of a model that leaves the embeddings that it gets as they are."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import torch

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny

IDS = _tiny.prompt(8)


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


class Inputs:
    """A subclass names the patch, makes the model with its inputs, and says which layers are trained."""

    patch: str
    layers = "q_proj"
    checkpoints = True
    """Whether the model supports gradient checkpointing."""

    def make(self):
        raise NotImplementedError

    @property
    def applied(self):
        return zoo_hooks.report()[self.patch].status.name == "APPLIED"

    def test_the_embeddings_of_the_caller_stay_as_they_are(self, measured):
        row = measured(self.patch)
        assert row["with"] == 0.0
        assert (row["without"] > 0.01) == (row["status"] == "APPLIED")

    def test_embeddings_and_tokens_give_the_same_logits(self):
        """Each twice, by keyword and by position, in copies and in a subclass that calls its parent."""
        model, more = self.make()

        class Model(type(model)):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs)

        other = Model(model.config).eval()
        other.load_state_dict(model.state_dict())
        embeds = model.get_input_embeddings()(IDS).detach()
        before = embeds.clone()
        values = {**more, "inputs_embeds": embeds}
        names = [*inspect.signature(model.forward).parameters]
        placed = [values.pop(name, None) for name in names[: names.index("inputs_embeds") + 1]]
        expected = logits(model, input_ids=IDS, **more)
        for _ in range(2):
            assert torch.equal(logits(model, inputs_embeds=embeds, **more), expected)
            assert torch.equal(logits(model, *placed, **values), expected)
            assert torch.equal(logits(copy.deepcopy(model), inputs_embeds=embeds, **more), expected)
            assert torch.equal(logits(other, inputs_embeds=embeds, **more), expected)
        assert torch.equal(logits(other, input_ids=IDS, **more), expected)
        assert torch.equal(embeds, before)

    def test_it_is_what_upstream_gives_at_first(self):
        """For tokens and for embeddings."""
        model, more = self.make()
        embeds = model.get_input_embeddings()(IDS).detach()
        with zoo_hooks.disabled(self.patch):
            tokens = logits(model, input_ids=IDS, **more)
            given = logits(model, inputs_embeds=embeds.clone(), **more)
        assert torch.equal(logits(model, input_ids=IDS, **more), tokens)
        assert torch.equal(logits(model, inputs_embeds=embeds, **more), given)

    def test_others_may_wrap_the_forward(self):
        model, more = self.make()
        embeds = model.get_input_embeddings()(IDS).detach()
        expected = logits(model, inputs_embeds=embeds, **more)
        plain = model.forward

        @functools.wraps(plain)
        def forward(*args, **kwargs):
            return plain(*args, **kwargs)

        model.forward = forward
        assert torch.equal(logits(model, inputs_embeds=embeds, **more), expected)

    def train(self, *, checkpoints=False, requires=False, frozen=True):
        """Gradients of the trained layers after one step."""
        model, more = self.make()
        model.train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        table = model.get_input_embeddings()
        for name, value in model.named_parameters():
            value.requires_grad_(self.layers in name or (not frozen and value is table.weight))
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if requires:
            model.enable_input_require_grads()
        result = model(input_ids=IDS, **{**more, "use_cache": False}).logits
        (result * torch.linspace(-1, 1, result.numel()).view(result.shape)).sum().backward()
        assert not any(hook.__name__ == "copy_of_leaf" for hook in table._forward_hooks.values())
        return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}

    @pytest.mark.parametrize("checkpoints", [False, True])
    def test_frozen_embeddings_can_be_trained_upon(self, checkpoints):
        """Gradients of the layers are those without ``enable_input_require_grads``."""
        if checkpoints and not self.checkpoints:
            return
        expected = self.train()
        seen = self.train(checkpoints=checkpoints, requires=True)
        assert any(value is not None for value in expected.values())
        for name, value in expected.items():
            if value is not None:
                assert (seen[name] - value).abs().max() < 1e-5 * value.abs().max(), name

    def test_embeddings_that_are_trained_have_the_gradients_of_upstream(self):
        seen = self.train(requires=True, frozen=False)
        with zoo_hooks.disabled(self.patch):
            expected = self.train(requires=True, frozen=False)
        for name, value in expected.items():
            assert value is seen[name] is None or torch.equal(value, seen[name]), name

    def test_gradients_reach_given_embeddings(self):
        """Those of a leaf, which raised an exception."""
        model, more = self.make()
        embeds = model.get_input_embeddings()(IDS).detach().requires_grad_()
        model(inputs_embeds=embeds, **more).logits.square().sum().backward()
        assert embeds.grad.abs().max() > 0
