"""transformers' own tests of models, from its source distribution, on tiny ones that patches are about.

Run by upstream_suites.py among its tests. It ships those that all models share, but neither those of
generation nor the files that say which models there are.
"""

from __future__ import annotations

import sys
import unittest
from importlib import import_module
from types import ModuleType

import torch
import transformers

from zoo_hooks.patches.transformers import _tiny

LAYERS = _tiny._layers(4, 2)
for name in ("tests.generation", "tests.generation.test_utils"):
    sys.modules[name] = ModuleType(name)
sys.modules[name].GenerationTesterMixin = type("GenerationTesterMixin", (), {})
shared = import_module("tests.test_modeling_common")


class Tester:
    """What the shared tests want to know of a model."""

    is_training = True
    batch_size, hidden_size = 2, 32

    def __init__(self, model, inputs):
        self.config, self.inputs = model.config, inputs
        self.seq_length = inputs["input_ids"].shape[1]
        self.num_hidden_layers = model.config.get_text_config().num_hidden_layers

    def get_config(self):
        return self.config

    def prepare_config_and_inputs_for_common(self):
        return self.config, {key: torch.cat([value, value]) for key, value in self.inputs.items()}


class Gemma4Test(shared.ModelTesterMixin, unittest.TestCase):
    """Shared K/V, per-layer inputs and experts."""

    all_model_classes = (transformers.Gemma4ForCausalLM,)

    def setUp(self):
        model = _tiny.shared_model(**LAYERS, **_tiny.PER_LAYER_INPUTS, **_tiny.EXPERTS)
        self.model_tester = Tester(
            model, {"input_ids": _tiny.prompt(), "attention_mask": torch.ones(1, 12).long()}
        )


class Gemma3nTest(shared.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (transformers.Gemma3nForCausalLM,)

    def setUp(self):
        model = _tiny.gemma3n_model(**LAYERS, activation_sparsity_pattern=[0.0] * 4)
        self.model_tester = Tester(
            model, {"input_ids": _tiny.prompt(), "attention_mask": torch.ones(1, 12).long()}
        )


class Gemma4WithTowersTest(shared.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (transformers.Gemma4ForConditionalGeneration,)
    _is_composite = True

    def setUp(self):
        seen, heard = _tiny.image_inputs(), _tiny.audio_inputs()
        ids = torch.cat([seen["input_ids"], heard["input_ids"]], 1)
        kinds = (ids == _tiny.TOKENS["image_token_id"]).long()
        inputs = {**seen, **heard, "input_ids": ids, "mm_token_type_ids": kinds}
        self.model_tester = Tester(_tiny.multimodal_model(), inputs)
