"""transformers with the torchcodec of this environment, which is installed but cannot be loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import child, python, recorded

sys.path.append(str(Path(__file__).parents[1] / "datasets"))
from torchcodecs import needs_a_real_one, real, real_without_ffmpeg, stand_in

PATCH = "transformers/torchcodec-broken"
pytestmark = pytest.mark.skipif(
    not find_spec("torchcodec"), reason="torchcodec is not part of this environment"
)
BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"
GONE = "import sys, zoo_hooks\nsys.modules['torchcodec'] = None\n"
TRY = """
import tempfile
from transformers import audio_utils, video_utils
from transformers.utils import is_torchcodec_available, requires_backends
from transformers.utils.import_utils import is_torchcodec_available as original_name

def said(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__} {str(error).strip()[:40]}"

print(is_torchcodec_available(), original_name(), is_torchcodec_available is original_name)
with tempfile.NamedTemporaryFile(suffix=".wav") as file:
    print(said(lambda: audio_utils.load_audio(file.name)))
"""
BY_NAME = """
with tempfile.NamedTemporaryFile(suffix=".wav") as file:
    print(said(lambda: audio_utils.load_audio_torchcodec(file.name)))
with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
    print(said(lambda: video_utils.load_video(file.name, backend="torchcodec")))
"""


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
    """Each answer and each error, where nobody names it."""
    assert python(BEGIN + TRY) == without_torchcodec
    assert without_torchcodec.startswith("False False True\n")
    assert "ImportError" in without_torchcodec


def test_what_names_it_raises_its_own_error():
    """As without the hooks, for sounds and for videos, though then it is the first thing that happens."""
    own = python(TRY + BY_NAME, ZOO_HOOKS="0").splitlines()[-2:]
    assert all("Error Could not load" in line for line in own)
    assert python(BEGIN + TRY + BY_NAME).splitlines()[-2:] == own


def test_it_is_told_once_with_the_error():
    """A warning when it is first asked for, and no other."""
    told = child(BEGIN + TRY + TRY).stderr
    assert told.count("zoo-hooks: torchcodec is installed but cannot be imported (") == 1
    assert told.count("zoo-hooks") == 1
    assert "Error: Could not load" in told


def test_the_controls_of_the_function_are_upstreams():
    """Where it is a cache, its controls are there; and its answer stays."""
    code = """
import transformers.audio_utils
from transformers.utils import is_torchcodec_available as ask
print([hasattr(ask, name) for name in ("cache_clear", "cache_info", "cache_parameters")])
"""
    assert python(BEGIN + code) == python(code, ZOO_HOOKS="0")
    clear = "getattr(ask, 'cache_clear', bool)()\nassert ask() is False\n"
    python(BEGIN + code + clear)


def test_nothing_of_it_stays_imported():
    """Other code takes a module that is there for one that works: transformers from 5.23.0 does."""
    assert python(BEGIN + "import transformers.audio_utils\nprint('torchcodec' in sys.modules)") == "False\n"


def test_one_that_raises_import_errors_counts_as_not_installed_too(tmp_path, without_torchcodec):
    """So that what needs no decoder works there as well."""
    path = stand_in(tmp_path, "raise ImportError('cannot load')")
    assert python(BEGIN + TRY + STATUS, PYTHONPATH=path) == without_torchcodec + "APPLIED\n"


def test_all_modules_ask_the_same_function_and_torchcodec_is_not_touched():
    """Those that copied its name early and those that come late; who imports it sees its own error."""
    code = BEGIN + """
import transformers.video_processing_utils as early
import transformers.audio_utils
import transformers.pipelines.audio_classification as late
from transformers.utils import is_torchcodec_available
assert early.is_torchcodec_available is is_torchcodec_available
assert late.is_torchcodec_available is is_torchcodec_available
assert is_torchcodec_available() is False
import torchcodec.decoders
"""  # fmt: skip
    said = child(code, check=False).stderr
    assert "Could not load" in said
    assert "ModuleNotFoundError" not in said


def test_one_that_works_is_untouched(tmp_path):
    """It stays available, and is there for who has asked."""
    code = BEGIN + """
import transformers.audio_utils
from transformers.utils import is_torchcodec_available
assert is_torchcodec_available() is True
assert "torchcodec.decoders" in sys.modules
""" + STATUS  # fmt: skip
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "APPLIED\n"


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
    assert python(BEGIN + WAVE + STATUS, **real(tmp_path)) == heard + "APPLIED\n"


@needs_a_real_one
def test_the_same_one_without_ffmpeg_counts_as_not_installed(without_torchcodec):
    """Its error is raised without the repair, and nothing of it is seen with it."""
    told = child(WAVE, check=False, ZOO_HOOKS="0", **real_without_ffmpeg()).stderr
    assert "RuntimeError: Could not load libtorchcodec" in told
    assert python(BEGIN + TRY + STATUS, **real_without_ffmpeg()) == without_torchcodec + "APPLIED\n"
    named = python(BEGIN + TRY + BY_NAME, **real_without_ffmpeg()).splitlines()[-2:]
    assert all("RuntimeError Could not load libtorchcodec" in line for line in named)
    code = BEGIN + "import transformers.audio_utils\nprint('torchcodec' in sys.modules)"
    assert python(code, **real_without_ffmpeg()) == "False\n"


def test_one_without_the_decoders_is_left_alone(tmp_path):
    """A torchcodec that has them elsewhere is not a broken one."""
    path = Path(stand_in(tmp_path))
    (path / "torchcodec" / "__init__.py").write_text("")
    for file in (path / "torchcodec" / "decoders").iterdir():
        file.unlink()
    (path / "torchcodec" / "decoders").rmdir()
    code = "import transformers.audio_utils\nprint(transformers.audio_utils.is_torchcodec_available())\n"
    assert python(BEGIN + code, PYTHONPATH=str(path)) == "True\n"


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
