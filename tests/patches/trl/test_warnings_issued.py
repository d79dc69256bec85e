"""trl's trainers find the dictionary that they write to; models are otherwise as they were."""

from __future__ import annotations

import copy
import pickle

import pytest
from conftest import python, recorded
from transformers import PreTrainedModel

import zoo_hooks
from zoo_hooks.patches.trl import _tiny

PATCH = "trl/warnings-issued"
AFFECTED = recorded(PATCH) == "AFFECTED"


def applied():
    """Import a trainer that writes to the dictionary, where this release has one."""
    from trl import KTOTrainer

    return KTOTrainer and zoo_hooks.report()[PATCH].status.name == "APPLIED"


def test_without_the_repair_no_such_trainer_can_be_made(measured):
    """AttributeError on an affected release; with it a KTO step of a model against itself has loss 0.5."""
    row = measured(PATCH)
    assert ("no attribute 'warnings_issued'" in str(row["without"])) == AFFECTED
    assert row["with"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.skipif(not AFFECTED, reason="this release has no such drift")
def test_each_model_has_its_own_dictionary():
    """It is empty, kept, and not shared; a model that nobody asks has none in its dictionary."""
    assert applied()
    one, other = _tiny.model(), _tiny.model()
    assert "warnings_issued" not in vars(one)
    one.warnings_issued["estimate_tokens"] = True
    assert one.warnings_issued == {"estimate_tokens": True}
    assert other.warnings_issued == {}
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again.warnings_issued == {"estimate_tokens": True}
    own = _tiny.model()
    own.warnings_issued = given = {"mine": True}
    assert own.warnings_issued is given


@pytest.mark.skipif(not AFFECTED, reason="this release has no such drift")
def test_undone_it_is_gone():
    """Inside the block models have no such attribute."""
    assert applied()
    with zoo_hooks.disabled(PATCH):
        assert not hasattr(PreTrainedModel, "warnings_issued")
        assert not hasattr(_tiny.model(), "warnings_issued")
    assert hasattr(_tiny.model(), "warnings_issued")


def test_an_unaffected_release_is_untouched():
    """Nothing stands on the class."""
    assert ("warnings_issued" in vars(PreTrainedModel)) == applied() == AFFECTED


@pytest.mark.skipif(not AFFECTED, reason="this release has no such drift")
@pytest.mark.parametrize("first", [True, False])
def test_a_tool_that_gives_it_back_is_not_fought(first):
    """A dictionary on each model from its construction: seen where it was first, kept where it is second."""
    python(f"""
        import functools, zoo_hooks
        from transformers import PreTrainedModel

        def tool():
            original = PreTrainedModel.__init__
            @functools.wraps(original)
            def init(self, *args, **kwargs):
                original(self, *args, **kwargs)
                self.warnings_issued = {{"tool": True}}
            PreTrainedModel.__init__ = init

        if {first}:
            tool()
        from trl.trainer import kto_trainer
        from trl import KTOTrainer
        if not {first}:
            tool()
        from zoo_hooks.patches.trl import _tiny
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == ("NOT_NEEDED" if {first} else "APPLIED"), seen
        assert _tiny.model().warnings_issued == {{"tool": True}}
    """)
