"""CTRL leaves the embeddings that it gets as they are."""

from __future__ import annotations

from inputs_changed import Inputs

from zoo_hooks.patches.transformers.ctrl_inputs_changed import small_model


class TestCTRL(Inputs):
    patch = "transformers/ctrl-inputs-changed"
    layers = "Wq"
    checkpoints = False

    def make(self):
        return small_model()
