"""What holds for each model whose image tokens see each other and that generates with a static cache."""

from __future__ import annotations

import pytest
import torch

import zoo_hooks

STATIC = ("static", "offloaded_static") if torch.cuda.is_available() else ("static",)


def generated(model, inputs, cache, **how):
    """Tokens and their logits, eight of them."""
    how = {"max_new_tokens": 8, "do_sample": False, "disable_compile": True, **how}
    kept = {"output_logits": True, "return_dict_in_generate": True}
    output = model.generate(**inputs, **how, **kept, cache_implementation=cache)
    return output.sequences, torch.stack(output.logits)


def twice(inputs, pad=2):
    """Two prompts, the second one shorter: it begins with padding."""
    both = {key: torch.cat([value, value]) for key, value in inputs.items()}
    both["attention_mask"] = torch.ones_like(both["input_ids"])
    both["input_ids"][1] = inputs["input_ids"][0].roll(pad)
    both["mm_token_type_ids"][1] = inputs["mm_token_type_ids"][0].roll(pad)
    both["attention_mask"][1, :pad] = 0
    return both


class StaticMasks:
    """Tests; a subclass says which patch they are about, and gives the model and its inputs."""

    patch: str

    def model(self):
        raise NotImplementedError

    def inputs(self):
        raise NotImplementedError

    def test_without_the_repair_an_affected_release_differs(self, measured):
        """Logits are off by more than 0.01 there, and by nothing with the repair or elsewhere."""
        row = measured(self.patch)
        assert row["with"] == 0.0
        assert (row["without"] > 0.01) == (row["status"] == "APPLIED")

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("cache", STATIC)
    @pytest.mark.parametrize("padded", [False, True])
    def test_static_and_growing_caches_agree(self, attention, cache, padded):
        """All tokens, and logits to rounding; prompts with and without padding."""
        model = self.model()
        model.set_attn_implementation(attention)
        inputs = twice(self.inputs()) if padded else self.inputs()
        tokens, logits = generated(model, inputs, "dynamic")
        fixed, near = generated(model, inputs, cache)
        assert torch.equal(tokens, fixed)
        assert torch.allclose(logits, near, atol=1e-5)

    def test_a_subclass_that_prepares_inputs_of_its_own(self):
        """It is right too, and the mask that it is handed back is its own to change."""
        model, seen = self.model(), []

        class Own(type(model)):
            def prepare_inputs_for_generation(self, *args, **kwargs):
                inputs = super().prepare_inputs_for_generation(*args, **kwargs)
                seen.append(sorted(inputs))
                return inputs

        expected, _ = generated(model, self.inputs(), "dynamic")
        model.__class__ = Own
        assert torch.equal(generated(model, self.inputs(), "static")[0], expected)
        assert len(seen) == 8

    @pytest.mark.parametrize("cache", ["dynamic", "static"])
    def test_text_and_other_caches_are_as_without_the_repair(self, cache):
        """Bit for bit: a prompt without an image, and with one where the cache grows."""
        model = self.model()
        inputs = self.inputs() if cache == "dynamic" else {"input_ids": torch.arange(2, 14)[None]}
        _, logits = generated(model, inputs, cache)
        with zoo_hooks.disabled(self.patch):
            assert torch.equal(generated(model, inputs, cache)[1], logits)
