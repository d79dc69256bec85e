"""Packing a Gemma-4 to 4 bits leaves its patch embedder alone, unless the user's list says otherwise."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from conftest import python

pytest.importorskip("transformers.models.gemma4")
pytest.importorskip("bitsandbytes")

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit

PATCH = "transformers/gemma4-patch-embedder-packed-4bit"


def kinds(model):
    """Names of the classes of the embedder's projection, and of one of a layer."""
    tower = model.model.vision_tower
    layer = model.model.language_model.layers[0].self_attn.q_proj
    return type(tower.patch_embedder.input_proj).__name__, type(layer).__name__


def logits(model):
    with torch.no_grad():
        return model(**_four_bit.vision_inputs()).logits


def test_by_default_the_embedder_is_left_out_and_the_layers_are_packed():
    """Its weight is the model's own; output embeddings stay out as before."""
    plain, model = _four_bit.vision_model(), _four_bit.quantised(_four_bit.vision_model())
    assert kinds(model) == ("Linear", "Linear4bit")
    assert type(model.lm_head) is torch.nn.Linear
    embedder = model.model.vision_tower.patch_embedder.input_proj
    assert torch.equal(embedder.weight, plain.model.vision_tower.patch_embedder.input_proj.weight)


@pytest.mark.parametrize(("skip", "expected"), [(["lm_head"], "Linear4bit"), (["q_proj"], "Linear4bit"),
                                                (["lm_head", "input_proj"], "Linear")])  # fmt: skip
def test_the_users_list_is_honoured(skip, expected):
    """It replaces the default one, as upstream's documentation says."""
    assert kinds(_four_bit.quantised(_four_bit.vision_model(), skip))[0] == expected


def test_the_users_config_is_not_changed():
    """One config may be used for many models."""
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    _four_bit._loaded(_four_bit.vision_model(), quantization_config=config)
    assert config.llm_int8_skip_modules is None


def test_models_without_eyes_keep_the_default_list():
    """Nothing is written into their configs."""
    model = _four_bit.quantised(_four_bit.text_model())
    assert model.config.quantization_config.llm_int8_skip_modules is None


def test_what_was_saved_loads_the_same_with_and_without_the_hooks(tmp_path):
    """The list travels in the config; logits are equal, also in a process without the repair."""
    model = _four_bit.quantised(_four_bit.vision_model())
    model.save_pretrained(tmp_path)
    listed = json.loads((tmp_path / "config.json").read_text())["quantization_config"][
        "llm_int8_skip_modules"
    ]
    assert "model.vision_tower.patch_embedder" in listed
    again = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert kinds(again) == ("Linear", "Linear4bit")
    assert torch.equal(logits(again), logits(model))
    torch.save(logits(model), tmp_path / "logits.pt")
    python(
        f"import torch, transformers\nmodel = transformers.Gemma4ForConditionalGeneration.from_pretrained("
        f"{str(tmp_path)!r}, dtype=torch.float32)\nfrom zoo_hooks.patches.transformers import _four_bit\n"
        f"with torch.no_grad():\n    seen = model(**_four_bit.vision_inputs()).logits\n"
        f"assert torch.equal(seen, torch.load({str(tmp_path / 'logits.pt')!r}))",
        ZOO_HOOKS="0",
    )


def test_a_checkpoint_that_is_packed_already_stays_as_it_is():
    """One that upstream packed, whose config has no list."""
    with zoo_hooks.disabled(PATCH):
        packed = _four_bit.quantised(_four_bit.vision_model())
    assert kinds(packed)[0] == "Linear4bit"
    again = _four_bit.reloaded(packed)
    assert kinds(again)[0] == "Linear4bit"
    assert torch.equal(logits(again), logits(packed))


def test_it_is_in_force_whichever_module_comes_first():
    """The quantiser is imported by the module of the models, or before it."""
    for first in ("import transformers.quantizers.quantizer_bnb_4bit", ""):
        seen = python(
            f"{first}\nimport transformers.models.gemma4.modeling_gemma4, zoo_hooks\n"
            f"print(zoo_hooks.report()[{PATCH!r}].status.name)"
        )
        assert seen == "APPLIED\n"
