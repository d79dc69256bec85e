"""transformers with a bitsandbytes that cannot be loaded; the rest is as released."""

from __future__ import annotations

from optional_packages import SYMBOL, as_if_absent, as_without_us, package, tries

PATCH = "transformers/bitsandbytes-broken"
NAME = "bitsandbytes"
TRY = """
from transformers.utils import import_utils
import transformers.integrations.bitsandbytes, transformers.quantizers.auto as auto
print(import_utils.is_bitsandbytes_available())
"""
NAMED = tries(
    four="auto.Bnb4BitHfQuantizer.validate_environment(None)",
    eight="auto.Bnb8BitHfQuantizer.validate_environment(None)",
)


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_what_needs_none_is_as_if_it_were_absent_and_who_names_it_gets_its_error(tmp_path):
    """One warning; a model to be quantized by it gets the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(tmp_path, NAME, "", {"bitsandbytes/nn.py": ""})
    as_without_us(
        path,
        NAME,
        "import_utils.is_bitsandbytes_available()",
        "import transformers.integrations.bitsandbytes, transformers.quantizers.auto as auto",
        PATCH,
    )
