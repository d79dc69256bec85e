"""GIT leaves the embeddings that it gets as they are."""

from __future__ import annotations

from inputs_changed import Inputs

from zoo_hooks.patches.transformers.git_inputs_changed import small_model


class TestGIT(Inputs):
    patch = "transformers/git-inputs-changed"
    layers = "query"

    def make(self):
        return small_model()
