"""GIT trains with gradient checkpointing and its cache."""

from __future__ import annotations

from positional_cache import Checkpointed

from zoo_hooks.patches.transformers.git_inputs_changed import small_model


class TestGIT(Checkpointed):
    patch = "transformers/git-checkpointing-cache"

    def make(self):
        return small_model()

    def layers(self, model):
        return model.git.encoder.layer
