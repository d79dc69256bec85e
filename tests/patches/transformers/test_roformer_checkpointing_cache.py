"""RoFormer trains as a decoder with gradient checkpointing and its cache."""

from __future__ import annotations

import torch
from positional_cache import WAYS, Checkpointed

from zoo_hooks.patches.transformers import _positional_cache
from zoo_hooks.patches.transformers.roformer_checkpointing_cache import small_model


class TestRoFormer(Checkpointed):
    patch = "transformers/roformer-checkpointing-cache"

    def make(self):
        return small_model()

    def layers(self, model):
        return model.roformer.encoder.layer

    def test_labels_give_the_same_gradients(self):
        """The loss inside the model."""
        found = []
        for how in (None, *WAYS):
            model = self.make()[0].train()
            for part in model.modules():
                if isinstance(part, torch.nn.Dropout):
                    part.p = 0.0
            if how:
                model.gradient_checkpointing_enable(how)
            ids = torch.arange(3, 15)[None]
            model(ids, labels=ids).loss.backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert all(torch.allclose(one, found[0], atol=1e-6) for one in found)

    def test_an_encoder_is_left_alone(self):
        """It has no cache; the same loss and gradients with the repair and without."""
        from transformers import RoFormerConfig, RoFormerForMaskedLM

        def make():
            model, _ = small_model()
            plain = RoFormerForMaskedLM(RoFormerConfig(**{**model.config.to_dict(), "is_decoder": False}))
            plain.load_state_dict(model.state_dict(), strict=False)
            return plain, {}

        torch.manual_seed(0)
        plain = _positional_cache.step(make)
        torch.manual_seed(0)
        other = _positional_cache.step(make, WAYS[1])
        assert torch.allclose(plain[1], other[1], atol=1e-6)
