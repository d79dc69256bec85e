"""UDOP leaves the embeddings that it gets as they are."""

from __future__ import annotations

from inputs_changed import Inputs

from zoo_hooks.patches.transformers.udop_inputs_changed import small_model


class TestUDOP(Inputs):
    patch = "transformers/udop-inputs-changed"
    layers = ".q."

    def make(self):
        return small_model()
