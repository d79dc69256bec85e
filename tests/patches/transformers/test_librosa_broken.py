"""transformers with a librosa that cannot be loaded; the rest is as released."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import child
from optional_packages import BEGIN, SYMBOL, as_if_absent, as_without_us, package, status, tries
from transformers.utils import import_utils

from zoo_hooks.patches import _optional
from zoo_hooks.patches.transformers import librosa_broken

PATCH = "transformers/librosa-broken"
NAME = "librosa"
TRY = """
from transformers.utils import import_utils
import transformers.audio_utils
print(import_utils.is_librosa_available())
"""
NAMED = tries(table="import_utils.requires_backends(print, ['librosa'])")


def audio_utils_code():
    """The source of the module that imports it."""
    return Path(import_utils.__file__).parents[1].joinpath("audio_utils.py").read_text("utf-8")


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    if not _optional.imports_at_once(import_utils, librosa_broken.ROW):
        pytest.skip("this release does not import it at once")


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_what_needs_none_is_as_if_it_were_absent_and_who_names_it_gets_its_error(tmp_path):
    """One warning; what refuses with words of how to install it has the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_a_soxr_that_cannot_be_loaded_is_as_bad(tmp_path):
    """Where it is imported beside librosa, both are done without; who names librosa has its error."""
    path = package(tmp_path, NAME, "", {"soxr/__init__.py": f"raise ImportError('soxr: {SYMBOL}')"})
    if "soxr" not in audio_utils_code():
        pytest.skip("this release imports no soxr beside it")
    seen = child(BEGIN + TRY + status(PATCH) + NAMED, PYTHONPATH=path)
    assert seen.stdout == f"False\nAPPLIED\ntable ImportError soxr: {SYMBOL}\n"
    words = f"librosa with soxr is installed but cannot be imported (ImportError: soxr: {SYMBOL})"
    assert seen.stderr.count(words) == seen.stderr.count("zoo-hooks") == 1


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(tmp_path, NAME, "", {"soxr/__init__.py": ""})  # which 4.x imports beside it
    as_without_us(path, NAME, "import_utils.is_librosa_available()", "import transformers.audio_utils", PATCH)
