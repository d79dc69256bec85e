"""peft 0.17 with transformers 5: imported, and nobody else sees the class that stood in."""

from __future__ import annotations

import pytest
from conftest import child, python, recorded

PATCH = "peft/hybrid-cache-import"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only where import peft fails")


def test_without_hooks_peft_cannot_be_imported():
    """The symptom, in upstream's words."""
    told = child("import peft", check=False, ZOO_HOOKS="0").stderr
    assert "ImportError: cannot import name 'HybridCache' from 'transformers'" in told


@pytest.mark.parametrize("order", ["peft, transformers", "transformers, peft"])
def test_either_may_be_imported_first_and_the_class_is_gone_afterwards(order):
    """Also from the module that transformers had it in, and from its list of names."""
    python(f"""
        import {order}
        import zoo_hooks
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        assert not hasattr(transformers, "HybridCache")
        assert not hasattr(transformers.cache_utils, "HybridCache")
        assert "HybridCache" not in dir(transformers)
    """)


def test_what_needs_the_class_says_which_peft_does_without():
    """Prefix tuning of Gemma-2 makes one; a subclass cannot be made either."""
    told = python("""
        import peft, torch, transformers
        sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, head_dim=4,
                     num_attention_heads=2, num_key_value_heads=2)
        base = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes))
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        model = peft.get_peft_model(base, config)
        for make in (lambda: model.get_prompt(1, max_cache_len=8),
                     type("Mine", (peft.peft_model.HybridCache,), {})):
            try:
                make()
            except ImportError as error:
                print(error)
    """)
    assert told.count("upgrade peft to 0.18.0 or later") == 2


def test_another_tools_class_is_left_alone():
    """Where one is there already, before or after peft, the patch stands back and it stays."""
    python(f"""
        from transformers import BloomPreTrainedModel  # as peft does; transformers replaces itself there
        import transformers, zoo_hooks
        transformers.HybridCache = mine = type("HybridCache", (), {{}})
        import peft
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert peft.peft_model.HybridCache is transformers.HybridCache is mine
    """)
    python(f"""
        import importlib, peft, transformers, zoo_hooks
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        transformers.HybridCache = mine = type("HybridCache", (), {{}})
        importlib.reload(peft.peft_model)
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert peft.peft_model.HybridCache is transformers.HybridCache is mine
    """)
