"""Adapters of transformers' own models with each peft that is released."""

from __future__ import annotations

import contextlib
import importlib.metadata
import types

import pytest
import torch
import transformers
from conftest import child, exists, python, recorded

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.transformers import adapter_floor_unreleased as patch

PATCH = "transformers/adapter-floor-unreleased"
GUARDS = ["peft/prompt-learning-generate", "peft/prefix-tuning-heads", "peft/shadow-cache-dropped"]
MESSAGE = "The version of PEFT you are using is not compatible, please use a version >= "
pytestmark = pytest.mark.skipif(
    not exists("peft") or recorded(PATCH) != "AFFECTED", reason="only with transformers 5.24"
)


def adapted():
    from peft import LoraConfig

    from zoo_hooks.patches import _tiny

    model = _tiny.llama()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    return model


def guards():
    """Those whose bug this peft has."""
    return [guard for guard in GUARDS if recorded(guard) == "AFFECTED"]


def test_adapters_of_a_model_are_used_as_on_5_23(tmp_path):
    """Every method that asks for the floor; what is saved loads into a new model."""
    model, text = adapted(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model(text).logits
        assert model.active_adapters() == ["default"]
        model.disable_adapters()
        assert not model(text).logits.allclose(expected)
        model.enable_adapters()
        assert model(text).logits.equal(expected)
        model.set_adapter("default")
        model.save_pretrained(tmp_path)
        again = type(model)(model.config)
        again.load_state_dict({k.replace(".base_layer", ""): v for k, v in model.state_dict().items()
                               if "lora" not in k})  # fmt: skip
        again.load_adapter(str(tmp_path))
        assert again.eval()(text).logits.allclose(expected)
    assert len(again.get_adapter_state_dict()) == 2
    again.delete_adapter("default")


@pytest.mark.parametrize("guard", [PATCH, *GUARDS])
def test_the_floor_stays_where_what_it_guards_against_is_not_repaired(guard):
    """In upstream's words; it is lowered again with the repair."""
    if guard not in [PATCH, *guards()]:
        pytest.skip("this peft has no shadow adapters")
    with zoo_hooks.disabled(guard), pytest.raises(ValueError, match=f"^{MESSAGE}0.22.0$"):
        adapted()
    assert adapted().active_adapters() == ["default"]


def test_the_floor_stays_with_a_repair_switched_off_from_the_start():
    """By ZOO_HOOKS, though the floor's own patch is in force."""
    told = child(
        """
        import peft, transformers, zoo_hooks
        assert zoo_hooks.report()["transformers/adapter-floor-unreleased"].status.name == "APPLIED"
        from zoo_hooks.patches import _tiny
        _tiny.llama().add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
        """,
        check=False,
        ZOO_HOOKS=f"-{GUARDS[0]}",
    ).stderr
    assert f"ValueError: {MESSAGE}0.22.0" in told


def test_peft_need_not_have_been_imported():
    """It is, as transformers itself does next; importing transformers alone does not."""
    python("""
        import sys
        import transformers.modeling_utils, zoo_hooks
        assert "peft" not in sys.modules
        transformers.integrations.peft.check_peft_version(min_version="0.22.0")
        assert "peft" in sys.modules
        assert zoo_hooks.report()["peft/prompt-learning-generate"].status.name == "APPLIED"
    """)


def test_a_peft_below_the_old_floor_is_refused(monkeypatch):
    """Where the patch is in force it names the old floor; a floor of others' is left alone."""
    check = transformers.integrations.peft.check_peft_version
    with pytest.raises(ValueError, match=f"^{MESSAGE}0.99.0$"):
        check("0.99.0")
    check("0.22.0")
    check(min_version="0.22.0")
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.19.1")
    with pytest.raises(ValueError, match=f"^{MESSAGE}0.20.0$"):
        check(min_version="0.22.0")


@pytest.mark.parametrize(
    ("floor", "installed", "verdict"),
    [
        ("0.20.0", "0.21.2", Verdict.FIXED),
        ("0.22.0", "0.21.2", Verdict.AFFECTED),
        ("0.22.0", "0.20.0", Verdict.AFFECTED),
        ("0.22.0", "0.19.1", Verdict.FIXED),
        ("0.22.0", "0.22.0", Verdict.FIXED),
        ("0.23.0", "0.21.2", Verdict.FIXED),
        ("0.22.0", None, Verdict.FIXED),
        (None, "0.21.2", Verdict.FIXED),
    ],
)
def test_only_the_floor_of_5_24_over_a_peft_that_5_23_takes_is_lowered(
    floor, installed, verdict, monkeypatch
):
    """Not another floor, nor for a peft that is released with it, nor where there is none."""
    found = installed is not None, installed or "N/A"
    monkeypatch.setattr(transformers.utils.import_utils, "_is_package_available", lambda *_, **__: found)
    module = types.SimpleNamespace(**({"MIN_PEFT_VERSION": floor} if floor else {}))
    assert patch.probe(module) is verdict


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tools_floor_before_or_after_does_no_harm(first, monkeypatch):
    """One that sets the constant; before us it is seen."""
    place = transformers.integrations.peft
    with (
        zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext(),
        monkeypatch.context() as own,
    ):
        own.setattr(place, "MIN_PEFT_VERSION", "0.18.0")
        assert patch.probe(place) is Verdict.FIXED
        assert adapted().active_adapters() == ["default"]
