"""The DPO trainer imports, trains, and knows the models that see; transformers is as it was."""

from __future__ import annotations

import pytest
from conftest import python, recorded
from transformers.models.auto import modeling_auto
from trl.trainer import dpo_trainer

from zoo_hooks.patches.trl import _tiny, dpo_vision_mapping

PATCH = "trl/dpo-vision-mapping"
OLD, NEW = dpo_vision_mapping.OLD, dpo_vision_mapping.NEW
AFFECTED = recorded(PATCH) == "AFFECTED"


def test_without_the_repair_an_affected_release_cannot_import_it(measured):
    """ImportError on a name; with it a step of a model against itself has the loss log 2."""
    row = measured(PATCH)
    assert (f"cannot import name '{OLD}'" in str(row["without"])) == AFFECTED
    assert row["with"] == pytest.approx(0.6931, abs=1e-4)


def test_a_step_runs():
    """In this process too."""
    assert _tiny.dpo_loss() == pytest.approx(0.6931, abs=1e-4)


def test_it_knows_the_models_that_see():
    """The trainer's table is the new one: Llava and Gemma 3 are in it, Llama is not."""
    if AFFECTED:
        table = getattr(dpo_trainer, OLD)
        assert table is getattr(modeling_auto, NEW)
        assert {"llava", "gemma3"} <= table.keys()
        assert "llama" not in table


def test_the_old_name_is_gone_again():
    """Who looks for it in transformers, as a test of its age, finds what is there without us."""
    assert not (AFFECTED and hasattr(modeling_auto, OLD))


@pytest.mark.skipif(not AFFECTED, reason="this release has no such drift")
@pytest.mark.parametrize("first", [True, False])
def test_a_tool_that_gives_the_name_back_is_not_fought(first):
    """Before us its table is the one that is used; after us it may stay for good."""
    python(f"""
        import zoo_hooks
        from transformers.models.auto import modeling_auto
        theirs = dict(modeling_auto.{NEW})
        if {first}:
            modeling_auto.{OLD} = theirs
        from trl.trainer import dpo_trainer
        modeling_auto.{OLD} = theirs
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == ("NOT_NEEDED" if {first} else "APPLIED"), seen
        assert (dpo_trainer.{OLD} is theirs) == {first}
    """)


def test_an_import_of_transformers_alone_adds_nothing():
    """The patch acts at the DPO trainer and nowhere else."""
    python(f"""
        from transformers.models.auto import modeling_auto
        assert hasattr(modeling_auto, {OLD!r}) == {hasattr(modeling_auto, OLD)}
    """)
