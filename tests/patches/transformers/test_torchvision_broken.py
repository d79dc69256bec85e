"""transformers with a torchvision that cannot be loaded; the rest is as released, and Pillow stands in.

The mechanism that all such patches share is tested here.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
from conftest import child, python
from optional_packages import BEGIN, BROKEN, SYMBOL, as_if_absent, as_without_us, package, status, tries

from zoo_hooks.patches import _optional
from zoo_hooks.patches.transformers import torchvision_broken

PATCH = "transformers/torchvision-broken"
NAME = "torchvision"
MODES = "NEAREST NEAREST_EXACT BOX BILINEAR HAMMING BICUBIC LANCZOS"
WORKS = {
    "torchvision/transforms/__init__.py": f"import enum\nInterpolationMode = enum.Enum('I', '{MODES}')\n",
    "torchvision/transforms/functional.py": "pil_to_tensor = None\n",
    "torchvision/io.py": "",
}
TRY = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import import_utils
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
))
print(model(torch.arange(4)[None]).logits.shape)
print(import_utils.is_torchvision_available(), import_utils.is_torchvision_v2_available())
"""
GATES = """
from transformers.utils import requires_backends
def gate():
    if not import_utils.is_torchvision_available():
        raise ValueError("pip install torchvision")
"""


@pytest.fixture
def site(tmp_path):
    """A folder for the package, with Pillow where there is none."""
    if not find_spec("PIL"):
        for file, text in torchvision_broken.PILLOW.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text)
    return tmp_path


def test_without_the_repair_nothing_can_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_all_else_works_and_who_names_it_gets_its_error(site):
    """A Llama runs; what transformers or others refuse with words of how to install it has the error."""
    named = GATES + tries(table="requires_backends(print, ['torchvision'])", gate="gate()")
    as_if_absent(site, NAME, PATCH, TRY, named)


def test_one_that_works_is_used_as_without_us(site):
    """Loaded by what imports it, and not by what asks."""
    asked = "import_utils.is_torchvision_available()"
    as_without_us(package(site, NAME, "", WORKS), NAME, asked, "import transformers.image_utils", PATCH)


@pytest.mark.parametrize("body", ["import os; os.abort()", "import time; time.sleep(600)"])
def test_nothing_of_it_is_run_before_it_is_used(site, body):
    """One that ends the process, or takes for ever, does so only where transformers would import it."""
    code = BEGIN + "import transformers\nfrom transformers.utils import import_utils\n"
    code += "print(import_utils.is_torchvision_available(), 'torchvision' in sys.modules)"
    assert python(code, PYTHONPATH=package(site, NAME, body)) == "True False\n"


def test_it_is_undone_and_torch_compile_may_ask(site):
    """Undone, it counts as installed; a compiled function that asks does not break its graph."""
    code = BEGIN + f"""
import torch, transformers.image_utils
from transformers.utils import import_utils
@torch.compile(fullgraph=True, backend="eager")
def forward(x):
    return x + 1 if import_utils.is_torchvision_available() else x
assert forward(torch.zeros(1)).item() == 0
with zoo_hooks.disabled({PATCH!r}):
    assert import_utils.is_torchvision_available()
assert import_utils.is_torchvision_available() is False
"""  # fmt: skip
    assert child(code, PYTHONPATH=package(site, NAME)).stderr.count("zoo-hooks") == 1


@pytest.mark.parametrize("hooks", ["0", "1"])
def test_another_tool_that_does_the_same_is_not_fought(site, hooks):
    """Before us (hooks off until then) or after us, its answer stays."""
    code = BEGIN + """
import os
from transformers.utils import import_utils
def theirs():
    return False
import_utils.is_torchvision_available = theirs
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert import_utils.is_torchvision_available is theirs
""" + status(PATCH)  # fmt: skip
    expected = {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
    assert python(code, PYTHONPATH=package(site, NAME), ZOO_HOOKS=hooks) == expected


def test_who_came_before_us_gets_the_same(site):
    """Activated after transformers was imported, every copy of the question is the repaired one."""
    code = BEGIN + """
import os
from transformers import utils
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
import transformers.image_utils
assert not utils.is_torchvision_available() and not utils.import_utils.is_torchvision_available()
"""  # fmt: skip
    python(code, PYTHONPATH=package(site, NAME), ZOO_HOOKS="0")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (BROKEN, False),
        ("raise OSError('no library')", False),
        ("raise ModuleNotFoundError('other', name='other')", False),
        ("raise ModuleNotFoundError('broken_one.old', name='broken_one.old')", True),
        ("", True),
    ],
)
def test_what_counts_as_broken(tmp_path, monkeypatch, body, answer):
    """Any error of its import, but not that a release of it has no such module."""
    monkeypatch.syspath_prepend(package(tmp_path, "broken_one", body))
    one, said = _optional.Package("broken_one"), []
    row = _optional.Row("broken_one", (), ())
    told = partial(one.told, row=row, changes=SimpleNamespace(tell=said.append))
    space = {"told": told, "frame": sys._getframe}
    exec("answer = told(frame())\nif not answer and answer:\n    import broken_one\n", space)
    assert space["answer"] is answer
    assert len(said) == (not answer)


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("return _is_package_available('torchvision')", "AFFECTED"),
        ("return theirs()", "FIXED"),
        ("import torchvision", "FIXED"),
        (None, "FIXED"),
    ],
)
def test_the_probe_hands_off_what_it_was_not_written_for(source, verdict):
    """A function that asks in another way, and none at all."""
    module = ModuleType("fake")
    if source:
        exec(f"def is_torchvision_available():\n    {source}", vars(module))
    assert torchvision_broken.probe(module).name == verdict
