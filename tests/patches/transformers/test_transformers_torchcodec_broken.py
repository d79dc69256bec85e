"""transformers with the torchcodec of this environment, which is installed but cannot be loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import child, python, recorded

sys.path.append(str(Path(__file__).parents[1] / "datasets"))
from torchcodecs import needs_a_real_one, real, real_without_ffmpeg, stand_in

PATCH = "transformers-torchcodec-broken"
pytestmark = pytest.mark.skipif(
    not find_spec("torchcodec"), reason="torchcodec is not part of this environment"
)
BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"
GONE = "import sys, zoo_hooks\nsys.modules['torchcodec'] = None\n"
TRY = """
import tempfile
from transformers import audio_utils
from transformers.utils import is_torchcodec_available, requires_backends
from transformers.utils.import_utils import is_torchcodec_available as original_name

print(is_torchcodec_available(), original_name(), is_torchcodec_available is original_name)
with tempfile.NamedTemporaryFile(suffix=".wav") as file:
    for call in (lambda: audio_utils.load_audio(file.name), lambda: requires_backends(TRY, ["torchcodec"])):
        try:
            print(call())
        except Exception as error:
            print(type(error).__name__, str(error).strip()[:40])
""".replace("TRY", "audio_utils.load_audio")


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    if recorded(PATCH) != "AFFECTED":
        pytest.skip("this release asks whether torchcodec is usable")


def test_without_the_repair_a_pipeline_cannot_be_handed_an_array(measured):
    """What torchcodec raises when it cannot load, and both labels with the repair."""
    row = measured(PATCH)
    assert row["without"].startswith(("OSError: Could not load", "RuntimeError: Could not load"))
    assert row["with"] == 2


@pytest.fixture(scope="module")
def without_torchcodec():
    """What is printed by a process in which torchcodec cannot be found."""
    return python(GONE + TRY, ZOO_HOOKS="0")


def test_everything_is_as_if_it_were_not_installed(without_torchcodec):
    """Each answer and each error."""
    assert python(BEGIN + TRY) == without_torchcodec
    assert without_torchcodec.startswith("False False True\n")
    assert "ImportError" in without_torchcodec


def test_one_that_raises_import_errors_counts_as_not_installed_too(tmp_path, without_torchcodec):
    """So that what needs no decoder works there as well."""
    path = stand_in(tmp_path, "raise ImportError('cannot load')")
    assert python(BEGIN + TRY + STATUS, PYTHONPATH=path) == without_torchcodec + "APPLIED\n"


def test_all_modules_ask_the_same_function_and_torchcodec_is_not_touched():
    """Those that copied its name early and those that come late; who imports it sees its own error."""
    code = BEGIN + """
import transformers.video_utils
import transformers.audio_utils
import transformers.pipelines.audio_classification as late
from transformers.utils import is_torchcodec_available
assert transformers.video_utils.is_torchcodec_available is is_torchcodec_available
assert late.is_torchcodec_available is is_torchcodec_available
assert is_torchcodec_available() is False
import torchcodec.decoders
"""  # fmt: skip
    said = child(code, check=False).stderr
    assert "Could not load" in said
    assert "ModuleNotFoundError" not in said


def test_one_that_works_is_untouched(tmp_path):
    """It stays available, and the function is transformers' own."""
    code = BEGIN + """
import transformers.audio_utils
from transformers.utils import is_torchcodec_available
assert is_torchcodec_available() is True
assert is_torchcodec_available.__module__ == "transformers.utils.import_utils"
assert "torchcodec.decoders" in sys.modules
""" + STATUS  # fmt: skip
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "NOT_NEEDED\n"


WAVE = """
import tempfile, wave
import numpy as np
from transformers.audio_utils import load_audio

sound = (np.sin(np.arange(1600) / 20) * 30000).astype("int16")
with tempfile.NamedTemporaryFile(suffix=".wav") as file:
    with wave.open(file.name, "wb") as made:
        made.setnchannels(1), made.setsampwidth(2), made.setframerate(16000)
        made.writeframes(sound.tobytes())
    heard = load_audio(file.name)
assert np.abs(heard - sound / 32768).max() < 1e-6
import sys
print("torchcodec.decoders" in sys.modules, heard.tobytes().hex())
"""


@needs_a_real_one
def test_a_real_one_that_works_is_untouched(tmp_path):
    """It hears a sound as it does without us."""
    heard = python(WAVE, ZOO_HOOKS="0", **real(tmp_path))
    assert heard.startswith("True ")
    assert python(BEGIN + WAVE + STATUS, **real(tmp_path)) == heard + "NOT_NEEDED\n"


@needs_a_real_one
def test_the_same_one_without_ffmpeg_counts_as_not_installed(without_torchcodec):
    """Its error is raised without the repair, and nothing of it is seen with it."""
    told = child(WAVE, check=False, ZOO_HOOKS="0", **real_without_ffmpeg()).stderr
    assert "RuntimeError: Could not load libtorchcodec" in told
    assert python(BEGIN + TRY + STATUS, **real_without_ffmpeg()) == without_torchcodec + "APPLIED\n"


def test_nothing_is_loaded_before_audio_is_asked_for(tmp_path):
    """Neither at the start of Python nor by ``import transformers``."""
    code = BEGIN + "import transformers\nprint('torchcodec' in sys.modules)"
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "False\n"


@pytest.mark.parametrize("hooks", ["0", "1"])
def test_another_tool_that_does_the_same_is_not_fought(hooks):
    """Before us (hooks off until then) or after us, its answer stays."""
    code = BEGIN + """
import os, transformers.audio_utils
from transformers.utils import import_utils

def theirs():
    return False

import_utils.is_torchcodec_available = transformers.audio_utils.is_torchcodec_available = theirs
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert import_utils.is_torchcodec_available is transformers.audio_utils.is_torchcodec_available is theirs
""" + STATUS  # fmt: skip
    assert python(code, ZOO_HOOKS=hooks) == {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
