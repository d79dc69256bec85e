"""trl's trainers import and train without the optional packages, and see those that are there."""

from __future__ import annotations

import re
from types import FunctionType

import pytest
import trl
from conftest import child, python, recorded
from transformers.utils import import_utils as theirs
from trl import import_utils

import zoo_hooks
from zoo_hooks.patches.trl import _tiny

PATCH = "trl/availability-flags"
QUESTIONS = [
    name
    for name, value in vars(import_utils).items()
    if name.startswith("is_") and name.endswith("_available") and isinstance(value, FunctionType)
]

OWN = import_utils._is_package_available.__module__ == "trl.import_utils"


def test_without_the_repair_nearly_every_package_counts_as_installed(measured):
    """Eleven or more answers are pairs, which are true; none where the releases fit."""
    row = measured(PATCH)
    assert (row["without"] > 10) == (recorded(PATCH) == "AFFECTED")
    assert row["with"] == 0


def test_without_hooks_the_import_asks_for_a_package_that_nobody_installed():
    """What a user sees, on each release that is recorded as affected; the others import."""
    told = child("from trl import GRPOTrainer", check=False, ZOO_HOOKS="0")
    missing = re.search(r"No module named '?(vllm|mergekit|weave|llm_blender)\b", told.stderr)
    assert bool(missing) == bool(told.returncode) == (recorded(PATCH) == "AFFECTED"), told.stderr


@pytest.mark.parametrize("name", ["GRPO", "SFT", "DPO", "RLOO"])
def test_a_trainer_and_its_configuration_import(name):
    """None of the optional packages is there: no vllm, mergekit, weave, llm_blender."""
    assert issubclass(getattr(trl, f"{name}Trainer"), trl.SFTTrainer.__mro__[-2])
    assert getattr(trl, f"{name}Config")


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_is_answered_with_a_bool(name):
    """True for what is there, False for what is not."""
    assert type(getattr(import_utils, name)()) is bool


def test_a_package_that_is_there_is_still_seen(tmp_path):
    """Also one that is put on the path; it is not imported for that, and its neighbour is missing."""
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "__init__.py").write_text("raise SystemError('imported')")
    python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from trl import import_utils
        assert import_utils.is_deepspeed_available() is True
        assert import_utils.is_liger_kernel_available() is False
    """)


def test_a_package_whose_version_is_asked_is_still_seen(tmp_path):
    """It has a distribution beside it; trl compares its version with the least that it can use."""
    (tmp_path / "liger_kernel").mkdir()
    (tmp_path / "liger_kernel" / "__init__.py").write_text("raise SystemError('imported')")
    (tmp_path / "liger_kernel-9.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: liger_kernel\nVersion: 9.0\n"
    (tmp_path / "liger_kernel-9.0.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "liger_kernel-9.0.dist-info" / "top_level.txt").write_text("liger_kernel")
    python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from trl import import_utils
        assert import_utils.is_liger_kernel_available() is True
        assert import_utils.is_deepspeed_available() is False
    """)


def test_transformers_keeps_its_own_function():
    """It is unpacked there, and in what asks for a version."""
    repaired = hasattr(import_utils._is_package_available, "__wrapped__")
    assert repaired == (recorded(PATCH) == "AFFECTED")
    if repaired:
        assert theirs._is_package_available is import_utils._is_package_available.__wrapped__
        assert theirs._is_package_available("sys") == (True, None)
    assert import_utils._is_package_available("trl", return_version=True) == (True, trl.__version__)


def test_a_tiny_step_of_sft_runs():
    """One step with a loss near the logarithm of the vocabulary.

    The Trainer of transformers 5.0 and 5.3 divides the sum of four tokens by the number of labels, five.
    """
    loss = _tiny.loss("SFT", {"text": ["a b c d", "b c d e"] * 2}, _tiny.model())
    assert min(abs(loss - 3.56), abs(loss * 5 / 4 - 3.56)) < 0.1


def test_a_tiny_step_of_grpo_runs():
    """One step in which the reward sees the completions."""
    seen = []

    def reward(completions, **_):
        seen.extend(completions)
        return [float(len(one)) for one in completions]

    size = {"num_generations": 2, "max_completion_length": 4}
    loss = _tiny.loss("GRPO", {"prompt": _tiny.PROMPTS}, _tiny.model(), reward_funcs=reward, **size)
    assert abs(loss) < 1e-3
    assert len(seen) == 2


FIRST = """
    from transformers.utils import import_utils as theirs
    original = theirs._is_package_available
    def asked(name, return_version=False):
        answer = original(name, return_version)
        return answer[0] if isinstance(answer, tuple) and not return_version else answer
    theirs._is_package_available = asked
"""
SECOND = """
    from trl import import_utils as ours
    for name, value in list(vars(ours).items()):
        if name.endswith("_available") and isinstance(value, tuple):
            setattr(ours, name, value[0])
    original = ours._is_package_available
    def asked(name, return_version=False):
        answer = original(name, return_version)
        return answer[0] if isinstance(answer, tuple) and not return_version else answer
    ours._is_package_available = asked
"""


@pytest.mark.parametrize(
    ("tool", "expected"), [(FIRST, "NOT_NEEDED"), (SECOND, None)], ids=["first", "second"]
)
def test_a_tool_that_repairs_it_too_is_not_fought(tool, expected):
    """Before us it is seen, and nothing is done; after us what it puts in stays."""
    expected = expected or zoo_hooks.report()[PATCH].status.name
    python(f"""
    import zoo_hooks
    {tool}
    from trl import import_utils
    seen = zoo_hooks.report()[{PATCH!r}].status.name
    assert seen == {expected!r}, seen
    assert {OWN} or import_utils._is_package_available is asked
    assert all(type(getattr(import_utils, name)()) is bool for name in {QUESTIONS!r})
    """)
