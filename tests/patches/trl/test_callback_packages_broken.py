"""trl with a weave or rich that cannot be loaded; the rest is as released."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import recorded
from optional_packages import SYMBOL, as_if_absent, tries
from trl import import_utils

PATCH = "trl/callback-packages-broken"
TRAINERS = "SFTTrainer, DPOTrainer, GRPOTrainer, RewardTrainer"
TRY = f"""
import warnings
warnings.simplefilter("ignore")
from trl import {TRAINERS}
from trl.trainer import callbacks
print([one.__name__ for one in ({TRAINERS})], callbacks.is_NAME_available())
"""
CALLBACKS = Path(import_utils.__file__).with_name("trainer") / "callbacks.py"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="this release does not have the bug")


def test_without_the_repair_a_trainer_cannot_be_imported(measured):
    """The error of a package's own body."""
    row = measured(PATCH)
    assert row["without"].endswith(SYMBOL)
    assert row["with"] == "imported"


@pytest.mark.parametrize("name", ["weave", "rich"])
def test_trainers_are_as_if_it_were_absent_and_who_imports_it_gets_its_error(tmp_path, name):
    """One warning, and no trainer that cannot be imported."""
    if f"is_{name}_available" not in CALLBACKS.read_text():
        pytest.skip(f"this trl does not know {name}")
    named = tries(itself=f"__import__({name!r})")
    as_if_absent(tmp_path, name, PATCH, TRY.replace("NAME", name), named)
