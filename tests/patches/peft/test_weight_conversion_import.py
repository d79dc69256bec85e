"""peft's module of weight conversions with transformers 4, where nothing is converted."""

from __future__ import annotations

import pytest
from conftest import child, python, recorded

PATCH = "peft/weight-conversion-import"
MODULE = "peft.utils.transformers_weight_conversion"
pytestmark = pytest.mark.skipif(
    recorded(PATCH) != "AFFECTED", reason="only where the module cannot be imported"
)


def test_without_hooks_it_cannot_be_imported():
    """The symptom, in upstream's words."""
    told = child(f"import {MODULE}", check=False, ZOO_HOOKS="0").stderr
    assert "ModuleNotFoundError: No module named 'transformers.conversion_mapping'" in told


@pytest.mark.parametrize("order", [f"{MODULE}, transformers", f"transformers, {MODULE}"])
def test_others_still_see_that_transformers_has_no_conversions(order):
    """Neither found, nor imported, nor an attribute, before and after; reloading peft's module too."""
    python(f"""
        import importlib, sys
        from importlib.util import find_spec
        names = ["conversion_mapping", "core_model_loading"]

        def unseen():
            import transformers
            for name in names:
                assert find_spec(f"transformers.{{name}}") is None
                assert f"transformers.{{name}}" not in sys.modules
                assert name not in vars(transformers)
                assert not hasattr(transformers, name)

        unseen()
        import {order}
        import zoo_hooks
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        unseen()
        importlib.reload(sys.modules[{MODULE!r}])
        unseen()
    """)


def test_what_would_convert_raises_an_error_that_names_the_upgrade():
    """Each function of peft's module that needs what transformers 4 lacks."""
    told = python(f"""
        import torch, transformers, peft
        from {MODULE} import *
        from {MODULE} import PeftConcatenate
        sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2, num_local_experts=2)
        model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes))
        config = peft.LoraConfig()
        for call in (
            lambda: convert_peft_config_for_transformers(config, model, None),
            lambda: convert_peft_adapter_state_dict_for_transformers(model, config, {{}}),
            lambda: build_peft_weight_mapping([object()], "default"),
            lambda: get_model_conversion_mapping(model),
            lambda: PeftConcatenate(dim=0),
        ):
            try:
                call()
            except ImportError as error:
                print(error)
        assert build_peft_weight_mapping(None, "default") == []
    """)
    assert told.count("upgrade transformers to 5.0.0 or later") == 5


def test_another_tools_stand_ins_are_left_alone():
    """Modules without a spec in sys.modules: the patch stands back, and they stay. Later ones too."""
    tool = """
        import sys, types, transformers
        def install():
            for name, members in MISSING.items():
                module = sys.modules[name] = types.ModuleType(name)
                vars(module).update({member: type(member, (), {}) for member in members})
                setattr(transformers, name.rpartition(".")[2], module)
            sys.modules["transformers.conversion_mapping"]._MODEL_TO_CONVERSION_PATTERN = {}
        from zoo_hooks.patches.peft.weight_conversion_import import MISSING
    """
    python(f"""{tool}
        install()
        theirs = [sys.modules[name] for name in MISSING]
        import zoo_hooks, {MODULE} as module
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert [sys.modules[name] for name in MISSING] == theirs
        assert module.WeightConverter is theirs[1].WeightConverter
    """)
    python(f"""{tool}
        import importlib, zoo_hooks, {MODULE} as module
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        install()
        theirs = [sys.modules[name] for name in MISSING]
        importlib.reload(module)
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert [sys.modules[name] for name in MISSING] == theirs
        assert module.WeightConverter is theirs[1].WeightConverter
    """)
