"""Voxtral Realtime leaves the embeddings that it gets as they are."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers.models.voxtral_realtime")

from inputs_changed import IDS, Inputs

from zoo_hooks.patches.transformers.voxtral_realtime_inputs_changed import small_model


class TestVoxtralRealtime(Inputs):
    patch = "transformers/voxtral-realtime-inputs-changed"

    def make(self):
        return small_model()

    def test_both_or_neither_is_refused_as_before(self):
        model, more = self.make()
        with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
            model(input_ids=IDS, inputs_embeds=model.get_input_embeddings()(IDS), **more)
        with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
            model(**more)
