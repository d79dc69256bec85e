"""transformers with a soxr that cannot be loaded; the rest is as released."""

from __future__ import annotations

import pytest
from optional_packages import SYMBOL, as_if_absent, as_without_us, package, tries
from transformers.utils import import_utils

from zoo_hooks.patches import _optional
from zoo_hooks.patches.transformers import soxr_broken

PATCH = "transformers/soxr-broken"
NAME = "soxr"
TRY = """
from transformers.utils import import_utils
import transformers.audio_utils
print(import_utils.is_soxr_available())
"""
NAMED = """
def gate():
    if not import_utils.is_soxr_available():
        raise ValueError("pip install soxr")
""" + tries(gate="gate()")


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    if not _optional.imports_at_once(import_utils, soxr_broken.ROW):
        pytest.skip("this release does not import it at once")


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_what_needs_none_is_as_if_it_were_absent_and_who_names_it_gets_its_error(tmp_path):
    """One warning; what refuses with words of how to install it has the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(tmp_path, NAME, "")
    as_without_us(path, NAME, "import_utils.is_soxr_available()", "import transformers.audio_utils", PATCH)
