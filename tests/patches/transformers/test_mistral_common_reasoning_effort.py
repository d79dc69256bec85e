"""transformers with a mistral-common that lacks a name; the rest is as released, and Pillow stands in."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import transformers
from conftest import child, python
from optional_packages import BEGIN, package, status

from zoo_hooks.patches.transformers import mistral_common_reasoning_effort as patch_module
from zoo_hooks.patches.transformers import torchvision_broken

PATCH = "transformers/mistral-common-reasoning-effort"
NAME = "mistral_common"
TRY = """
from transformers import tokenization_mistral_common as module
from mistral_common.protocol.instruct import request
print(module.MistralCommonBackend.__name__, getattr(request, "ReasoningEffort", None))
"""


def old(folder, *, later=False):
    """A mistral-common of before 1.10, or one that has the name."""
    files = {f"{NAME}/{part}.py": patch_module.CLASSES for part in patch_module.MODULES}
    if later:
        files[f"{NAME}/protocol/instruct/request.py"] += "class ReasoningEffort:\n    none = 1\n"
    if not find_spec("PIL"):
        files |= torchvision_broken.PILLOW
    packages = ("protocol", "protocol/instruct", "tokens", "tokens/tokenizers")
    files |= {f"{NAME}/{one}/__init__.py": "" for one in packages}
    return package(folder, NAME, "", files, version="1.9.1")


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    source = transformers.__spec__.loader.get_data(f"{transformers.__path__[0]}/utils/import_utils.py")
    body = transformers.__spec__.loader.get_data(f"{transformers.__path__[0]}/tokenization_mistral_common.py")
    if b"MISTRAL_COMMON_MIN_VERSION" in source or patch_module.NAME.encode() not in body:
        pytest.skip("this release asks for a newer mistral-common, or for less of it")


def test_without_the_repair_the_module_cannot_be_imported(measured):
    """The name that is not there."""
    row = measured(PATCH)
    assert "cannot import name 'ReasoningEffort'" in row["without"]
    assert row["with"] == "imported"


def test_the_module_is_imported_and_nothing_stays_in_the_package(tmp_path):
    """The name stands in only while the module loads."""
    assert python(BEGIN + TRY + status(PATCH), PYTHONPATH=old(tmp_path)) == (
        "MistralCommonBackend None\nAPPLIED\n"
    )


def test_one_that_has_the_name_is_untouched(tmp_path):
    """Its own class is what the annotation gets."""
    path = old(tmp_path, later=True)
    seen = python(BEGIN + TRY + status(PATCH), PYTHONPATH=path)
    assert seen == python(BEGIN + TRY, PYTHONPATH=path, ZOO_HOOKS="0") + "NOT_NEEDED\n"
    assert "class 'mistral_common.protocol.instruct.request.ReasoningEffort'" in seen


def test_without_it_nothing_of_it_is_looked_for():
    """The module then ends as without us."""
    code = BEGIN + "from transformers import tokenization_mistral_common\n"
    with_us, without = (child(code, check=False, ZOO_HOOKS=hooks) for hooks in "10")
    assert with_us.stderr.splitlines()[-1] == without.stderr.splitlines()[-1]
