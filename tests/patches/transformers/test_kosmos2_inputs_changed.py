"""Kosmos-2 leaves the embeddings that it gets as they are."""

from __future__ import annotations

from inputs_changed import Inputs

from zoo_hooks.patches.transformers.kosmos2_inputs_changed import small_model


class TestKosmos2(Inputs):
    patch = "transformers/kosmos2-inputs-changed"
    layers = "q_proj"

    def make(self):
        return small_model()
