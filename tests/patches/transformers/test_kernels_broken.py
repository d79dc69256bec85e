"""transformers with a package kernels that cannot be loaded; the rest is as released."""

from __future__ import annotations

import pytest
from conftest import child, python
from optional_packages import BEGIN, BROKEN, SYMBOL, package, status, tries
from transformers.utils import import_utils

from zoo_hooks.patches import _optional
from zoo_hooks.patches.transformers import kernels_broken

PATCH = "transformers/kernels-broken"
NAME = "kernels"
VERSION = getattr(import_utils, "KERNELS_MIN_VERSION", "9.0.0")
TRY = """
from transformers.utils import import_utils
from transformers import LlamaForCausalLM
print(import_utils.is_kernels_available())
"""
NAMED = """
from transformers.integrations import hub_kernels
""" + tries(
    kernel="hub_kernels.get_kernel('kernels-community/activation')", kernelize="hub_kernels.kernelize(None)"
)


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    if not _optional.imports_at_once(import_utils, kernels_broken.ROW):
        pytest.skip("this release does not import it at once")


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_what_needs_none_works_and_who_names_it_gets_its_error(tmp_path):
    """One warning; what asks for a kernel of the Hub has the error."""
    seen = child(
        BEGIN + TRY + NAMED + status(PATCH), PYTHONPATH=package(tmp_path, NAME, BROKEN, version=VERSION)
    )
    error = f"ImportError {NAME}: {SYMBOL}"
    assert seen.stdout == f"False\nkernel {error}\nkernelize {error}\nAPPLIED\n"
    words = f"zoo-hooks: {NAME} is installed but cannot be imported"
    assert seen.stderr.count(words) == seen.stderr.count("zoo-hooks") == 1


def test_where_its_version_is_refused_nothing_is_loaded(tmp_path):
    """As without us: upstream's own answer is False."""
    path = package(tmp_path, NAME, "print('loaded')", version="0.0.1")
    assert python(BEGIN + TRY, PYTHONPATH=path) == python(TRY, PYTHONPATH=path, ZOO_HOOKS="0") == "False\n"
