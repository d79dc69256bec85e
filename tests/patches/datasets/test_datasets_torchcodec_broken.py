"""datasets with the torchcodec of this environment, which is installed but cannot be loaded.

All of it runs in children, for a torchcodec that fails is gone for the rest of its process.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from conftest import child, python
from torchcodecs import needs_a_real_one, real, real_without_ffmpeg, stand_in

PATCH = "datasets-torchcodec-broken"
pytestmark = pytest.mark.skipif(
    not find_spec("torchcodec"), reason="torchcodec is not part of this environment"
)
BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
TRY = """
from datasets import Audio, Video

calls = {
    "encode video": lambda: Video().encode_example("x.mp4"),
    "encode video bytes": lambda: Video().encode_example({"path": None, "bytes": b"1"}),
    "decode video": lambda: Video().decode_example("x.mp4"),
    "encode audio": lambda: Audio().encode_example("x.wav"),
    "decode audio": lambda: Audio().decode_example({"path": "x.wav", "bytes": None}),
}
for name, call in calls.items():
    try:
        print(name, call())
    except Exception as error:
        print(name, type(error).__name__, str(error)[:30])
"""
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"


def test_without_the_repair_a_path_cannot_be_encoded(measured):
    """What torchcodec raises when it cannot load, and the path with the repair."""
    row = measured(PATCH)
    assert row["without"].startswith(("OSError: Could not load", "RuntimeError: Could not load"))
    assert row["with"] == "clip.mp4"


@pytest.fixture(scope="module")
def without_torchcodec():
    """What is printed by a process in which torchcodec cannot be found."""
    return python("import sys\nsys.modules['torchcodec'] = None\n" + TRY, ZOO_HOOKS="0")


def test_everything_is_as_if_it_were_not_installed(without_torchcodec):
    """Each result and each error, also where somebody had tried to import it in vain."""
    tried = "from contextlib import suppress\nwith suppress(Exception):\n    import torchcodec\n"
    assert python(BEGIN + TRY) == without_torchcodec
    assert python(BEGIN + tried + TRY) == without_torchcodec
    assert "ImportError To support encoding audio data" in without_torchcodec


def test_one_that_raises_import_errors_counts_as_not_installed_too(tmp_path, without_torchcodec):
    """So that what needs no decoder works there as well."""
    path = stand_in(tmp_path, "raise ImportError('cannot load')")
    assert python(BEGIN + TRY + STATUS, PYTHONPATH=path) == without_torchcodec + "APPLIED\n"


def test_columns_are_read_undecoded_and_it_is_told_and_undone():
    """A dataset of videos and sounds is built and mapped; one line at INFO; undoing brings back the error."""
    code = "import logging\nlogging.basicConfig(level=logging.INFO)\n" + BEGIN + f"""
from datasets import Audio, Dataset, Features, Value, Video, config

features = Features({{"clip": Video(decode=False), "n": Value("int64")}})
data = Dataset.from_dict({{"clip": ["a.mp4", "b.mp4"], "n": [1, 2]}}, features=features)
assert data.map(lambda row: {{"n": row["n"] + 1}})["n"][:] == [2, 3]
assert data[0]["clip"] == {{"path": "a.mp4", "bytes": None}}
sounds = Dataset.from_dict({{"sound": ["a.wav"]}}).cast_column("sound", Audio(decode=False))
assert sounds[0]["sound"]["path"] == "a.wav"
with zoo_hooks.disabled({PATCH!r}):
    assert config.TORCHCODEC_AVAILABLE
    try:
        import torchcodec.decoders
    except ModuleNotFoundError:
        raise AssertionError from None
    except (OSError, RuntimeError):
        print("its own error")
assert config.TORCHCODEC_AVAILABLE is False
"""  # fmt: skip
    run = child(code)
    assert run.stdout == "its own error\n"
    assert run.stderr.count("counts as not installed") == 1


def test_one_that_works_is_untouched(tmp_path):
    """The flag stays, its decoders are used, and the patch says that it is not needed."""
    code = BEGIN + "from datasets import config\n" + STATUS + """
import torchcodec.decoders
from datasets import Audio, Video
assert config.TORCHCODEC_AVAILABLE is True
assert isinstance(Video().decode_example("x.mp4"), torchcodec.decoders.VideoDecoder)
assert isinstance(Audio().decode_example({"path": "x.wav", "bytes": None}), torchcodec.decoders.AudioDecoder)
assert Audio().encode_example("x.wav") == {"path": "x.wav", "bytes": None}
"""  # fmt: skip
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "NOT_NEEDED\n"


WAVE = """
import torch
from datasets import Audio, config

wave = torch.sin(torch.arange(1600) / 20)
encoded = Audio().encode_example({"array": wave.numpy(), "sampling_rate": 16000})
heard = Audio().decode_example({"path": None, "bytes": encoded["bytes"]}).get_all_samples()
assert heard.sample_rate == 16000
assert float((heard.data[0] - wave).abs().max()) < 1e-4
print(config.TORCHCODEC_AVAILABLE, encoded["bytes"].hex())
"""


@needs_a_real_one
def test_a_real_one_that_works_is_untouched(tmp_path):
    """It encodes and decodes a sound, to the very bytes that it does without us."""
    made = python(WAVE, ZOO_HOOKS="0", **real(tmp_path))
    assert made.startswith("True 52494646")
    assert python(BEGIN + WAVE + STATUS, **real(tmp_path)) == made + "NOT_NEEDED\n"


@needs_a_real_one
def test_the_same_one_without_ffmpeg_counts_as_not_installed(without_torchcodec):
    """Its error is raised without the repair, and nothing of it is seen with it."""
    told = child(WAVE, check=False, ZOO_HOOKS="0", **real_without_ffmpeg()).stderr
    assert "RuntimeError: Could not load libtorchcodec" in told
    assert python(BEGIN + TRY + STATUS, **real_without_ffmpeg()) == without_torchcodec + "APPLIED\n"


def test_nothing_is_loaded_before_datasets_is(tmp_path):
    """Neither at the start of Python nor with the engine is torchcodec or torch imported."""
    code = BEGIN + "zoo_hooks.activate()\nimport dill\nprint({'torch', 'torchcodec'} & set(sys.modules))"
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "set()\n"


def test_without_torchcodec_nothing_is_loaded_at_all():
    """``import datasets`` imports torch as rarely as without hooks."""
    code = "import sys\nsys.modules['torchcodec'] = None\nimport datasets\nprint('torch' in sys.modules)"
    assert python(BEGIN + code) == python(code, ZOO_HOOKS="0")


@pytest.mark.parametrize("hooks", ["0", "1"])
def test_another_tool_that_does_the_same_is_not_fought(hooks):
    """Before us (hooks off until then) or after us, what it has set stays."""
    code = BEGIN + """
import os, datasets.config
datasets.config.TORCHCODEC_AVAILABLE = False
sys.modules["torchcodec"] = None
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert datasets.config.TORCHCODEC_AVAILABLE is False
assert sys.modules["torchcodec"] is None
""" + STATUS  # fmt: skip
    assert python(code, ZOO_HOOKS=hooks) == {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
