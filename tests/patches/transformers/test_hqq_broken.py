"""transformers with an HQQ that cannot be loaded; the rest is as released."""

from __future__ import annotations

from optional_packages import SYMBOL, as_if_absent, as_without_us, package, tries

PATCH = "transformers/hqq-broken"
NAME = "hqq"
TRY = """
from transformers.utils import import_utils
import transformers.cache_utils
print(import_utils.is_hqq_available())
"""
NAMED = tries(config="transformers.HqqConfig(nbits=4)")


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_what_needs_none_is_as_if_it_were_absent_and_who_names_it_gets_its_error(tmp_path):
    """One warning; a config for it raises the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(
        tmp_path, NAME, "", {"hqq/core/__init__.py": "", "hqq/core/quantize.py": "Quantizer = None\n"}
    )
    as_without_us(path, NAME, "import_utils.is_hqq_available()", "import transformers.cache_utils", PATCH)
