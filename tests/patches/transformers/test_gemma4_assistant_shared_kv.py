"""Models of Gemma-4's assistants, all of whose layers take the K/V of another model, can be built."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import SimpleNamespace

import pytest
import transformers

pytest.importorskip("transformers.models.gemma4")

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_assistant_shared_kv

PATCH = "transformers/gemma4-assistant-shared-kv"
NAMES = [
    name
    for name in ("Gemma4Assistant", "Gemma4UnifiedAssistant")
    if hasattr(transformers, f"{name}ForCausalLM")
]
each = pytest.mark.parametrize("name", NAMES)


def affected():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def text(name, count=2, shared=2):
    """The text config of a model that has the assistant of that name."""
    shape = {**_tiny.TEXT, **_tiny.GEMMA4, **_tiny._layers(count, shared), "vocab_size_per_layer_input": 0}
    if "Unified" in name:
        del shape["vocab_size_per_layer_input"], shape["hidden_size_per_layer_input"]
    return getattr(transformers, name.replace("Assistant", "TextConfig"))(**shape)


def assistant(name, **how):
    config = getattr(transformers, f"{name}Config")(text_config=text(name), backbone_hidden_size=32, **how)
    made = _tiny._seeded(getattr(transformers, f"{name}ForCausalLM"), config)
    made.generation_config.num_assistant_tokens = 4
    return made


def models(name):
    """Some layers of one share, and none of the other; 5.12 cannot crop a window that is full."""
    make = _tiny.unified_model if "Unified" in name else _tiny.shared_model
    return make(sliding_window=32), make(sliding_window=32, **_tiny._layers(4, 0))


@each
def test_an_assistant_guesses_for_its_model_which_generates_the_greedy_tokens(name, tmp_path):
    """Fresh, copied, pickled, and loaded from what it saved."""
    original = assistant(name)
    original.save_pretrained(tmp_path)
    how = {"max_new_tokens": 12, "do_sample": False}
    for model in models(name):
        expected = model.generate(_tiny.prompt(), **how)
        for one in (
            original,
            copy.deepcopy(original),
            pickle.loads(pickle.dumps(original)),
            type(original).from_pretrained(tmp_path),
        ):
            assert model.generate(_tiny.prompt(), assistant_model=one, **how).equal(expected)


@each
def test_its_layers_have_no_keys_and_values_of_their_own(name):
    """No weights to make them, so that what is published can be loaded."""
    names = [key for key, _ in assistant(name).named_parameters()]
    assert [key for key in names if "q_proj" in key]
    assert not [key for key in names if "k_proj" in key or "v_proj" in key]


@each
@pytest.mark.skipif(not hasattr(transformers.Gemma4TextConfig, "kv_sharing_modes"), reason="before 5.23.0")
def test_other_configs_have_the_modes_that_upstream_gives_them(name):
    """Where some layers share; and where no layer makes what others take, its error."""
    for count, shared in ((4, 2), (6, 4)):
        seen = text(name, count, shared).kv_sharing_modes
        assert seen.count("reuse") == shared
        if affected():
            with zoo_hooks.disabled(PATCH):
                assert text(name, count, shared).kv_sharing_modes == seen
    with pytest.raises(ValueError, match="layer types"):
        _ = text(name, 4, 3).kv_sharing_modes


@each
def test_only_an_affected_release_is_touched_and_it_stays_a_property(name):
    """It is read as before, and cannot be written; without the repair it raises."""
    kind = type(text(name))
    modes = inspect.getattr_static(kind, "kv_sharing_modes", None)
    if not affected():
        assert modes is None or not hasattr(modes.fget, "__wrapped__")
        return
    assert isinstance(modes, property)
    assert modes.fset is None
    with zoo_hooks.disabled(PATCH), pytest.raises(ValueError, match="layer types"):
        assistant(name)


def test_the_probe_leaves_unknown_code_alone():
    """A class attribute, and a property that says something else."""
    for modes in (["reuse"], property(lambda self: ["shared"] * self.num_hidden_layers)):
        kind = type("Config", (), {"kv_sharing_modes": modes})
        other = SimpleNamespace(__name__="configuration_gemma4", Gemma4TextConfig=kind)
        assert gemma4_assistant_shared_kv.probe(other).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: the error without, all tokens with."""
    row = measured(PATCH)
    assert row["with"] == 8
    assert ("ValueError" in str(row["without"])) == affected()
