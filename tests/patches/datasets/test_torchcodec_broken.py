"""datasets with the torchcodec of this environment, which is installed but cannot be loaded."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from conftest import child, python
from torchcodecs import needs_a_real_one, real, real_without_ffmpeg, stand_in

PATCH = "datasets/torchcodec-broken"
pytestmark = pytest.mark.skipif(
    not find_spec("torchcodec"), reason="torchcodec is not part of this environment"
)
BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
TRY = """
from datasets import Audio, Video

calls = {
    "encode video": lambda: Video().encode_example("x.mp4"),
    "encode video bytes": lambda: Video().encode_example({"path": None, "bytes": b"1"}),
    "encode audio": lambda: Audio().encode_example("x.wav"),
    "decode audio": lambda: Audio().decode_example({"path": "x.wav", "bytes": None}),
    "decode video": lambda: Video().decode_example("x.mp4"),
    "decode none": lambda: Video(decode=False).decode_example("x.mp4"),
    "import": lambda: __import__("torchcodec.decoders"),
}
for name, call in calls.items():
    try:
        print(name, call())
    except Exception as error:
        print(name, f"{type(error).__name__}: {str(error)[:30]}")
"""
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"


def test_without_the_repair_a_path_cannot_be_encoded(measured):
    """What torchcodec raises when it cannot load, and the path with the repair."""
    row = measured(PATCH)
    assert row["without"].startswith(("OSError: Could not load", "RuntimeError: Could not load"))
    assert row["with"] == "clip.mp4"


@pytest.fixture(scope="module")
def without_torchcodec():
    """What is printed by a process in which torchcodec cannot be found, of what needs none."""
    return python("import sys\nsys.modules['torchcodec'] = None\n" + TRY, ZOO_HOOKS="0").splitlines()[:2]


@pytest.fixture(scope="module")
def own_error():
    """What importing torchcodec raises here without the hooks."""
    error = python(TRY, ZOO_HOOKS="0").splitlines()[-1].removeprefix("import ")
    assert "Error: Could not load" in error
    return error


NAMED = ("encode audio", "decode audio", "decode video")


def check(seen, without_torchcodec, error):
    """What needs no decoder works as without torchcodec; what needs one, or imports it, raises its error."""
    lines = seen.splitlines()
    assert lines[:2] == without_torchcodec
    assert not any("Error" in line for line in lines[:2])
    assert lines[2:5] == [f"{name} {error}" for name in NAMED]
    assert lines[5].startswith("decode none RuntimeError: Decoding is disabled")
    assert lines[6] == f"import {error}"


def test_what_needs_a_decoder_raises_its_error_and_all_else_works(without_torchcodec, own_error):
    """Each result and each error, also where somebody had tried to import it in vain."""
    tried = "from contextlib import suppress\nwith suppress(Exception):\n    import torchcodec\n"
    check(python(BEGIN + TRY), without_torchcodec, own_error)
    check(python(BEGIN + tried + TRY), without_torchcodec, own_error)


def test_one_that_raises_import_errors_is_broken_too(tmp_path, without_torchcodec):
    """What needs no decoder works there as well; datasets has words of its own for sounds to encode."""
    path = stand_in(tmp_path, "raise ImportError('cannot load')")
    lines = python(BEGIN + TRY + STATUS, PYTHONPATH=path).splitlines()
    assert lines[:2] == without_torchcodec
    assert lines[3:5] == [f"{name} ImportError: cannot load" for name in NAMED[1:]]
    assert lines[-1] == "APPLIED"


def test_columns_are_read_undecoded_and_it_is_told_and_undone():
    """A dataset of videos and sounds is built and mapped; one warning; undone, the flag is as it was."""
    code = BEGIN + f"""
from datasets import Audio, Dataset, Features, Value, Video, config

features = Features({{"clip": Video(decode=False), "n": Value("int64")}})
data = Dataset.from_dict({{"clip": ["a.mp4", "b.mp4"], "n": [1, 2]}}, features=features)
assert data.map(lambda row: {{"n": row["n"] + 1}})["n"][:] == [2, 3]
assert data[0]["clip"] == {{"path": "a.mp4", "bytes": None}}
sounds = Dataset.from_dict({{"sound": ["a.wav"]}}).cast_column("sound", Audio(decode=False))
assert sounds[0]["sound"]["path"] == "a.wav"
with zoo_hooks.disabled({PATCH!r}):
    assert config.TORCHCODEC_AVAILABLE is True
    assert not hasattr(Video.decode_example, "__wrapped__")
assert Video().encode_example("a.mp4") == {{"path": "a.mp4", "bytes": None}}
assert not config.TORCHCODEC_AVAILABLE
"""  # fmt: skip
    told = child(code).stderr
    assert told.count("zoo-hooks: torchcodec is installed but cannot be imported (") == 1
    assert told.count("zoo-hooks") == 1
    assert "Error: Could not load" in told


def test_one_that_works_is_untouched(tmp_path):
    """The flag stays true, and its decoders are used."""
    code = BEGIN + "from datasets import config\n" + STATUS + """
import torchcodec.decoders
from datasets import Audio, Video
assert config.TORCHCODEC_AVAILABLE
assert isinstance(Video().decode_example("x.mp4"), torchcodec.decoders.VideoDecoder)
assert isinstance(Audio().decode_example({"path": "x.wav", "bytes": None}), torchcodec.decoders.AudioDecoder)
assert Audio().encode_example("x.wav") == {"path": "x.wav", "bytes": None}
"""  # fmt: skip
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "APPLIED\n"


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
    assert python(BEGIN + WAVE + STATUS, **real(tmp_path)) == made + "APPLIED\n"


@needs_a_real_one
def test_the_same_one_without_ffmpeg_is_broken(without_torchcodec):
    """What needs no decoder works, and what needs one raises its error."""
    told = child(WAVE, check=False, ZOO_HOOKS="0", **real_without_ffmpeg()).stderr
    assert "RuntimeError: Could not load libtorchcodec" in told
    error = "RuntimeError: Could not load libtorchcodec. "
    seen, status = python(BEGIN + TRY + STATUS, **real_without_ffmpeg()).rsplit("\n", 2)[:2]
    check(seen, without_torchcodec, error)
    assert status == "APPLIED"


def test_nothing_is_loaded_before_datasets_is(tmp_path):
    """Neither at the start of Python nor with the engine is torchcodec or torch imported."""
    code = BEGIN + "zoo_hooks.activate()\nimport dill\nprint({'torch', 'torchcodec'} & set(sys.modules))"
    assert python(code, PYTHONPATH=stand_in(tmp_path)) == "set()\n"


@pytest.mark.parametrize("body", ["import os; os.abort()", "import time; time.sleep(600)"])
def test_nothing_of_it_is_run_before_it_is_used(tmp_path, body):
    """One that ends the process, or takes for ever, does so only where datasets itself would load it."""
    code = BEGIN + "import datasets\ndata = datasets.Dataset.from_dict({'n': [1, 2]}).with_format('numpy')\n"
    code += "print(data[0]['n'], 'torchcodec' in sys.modules)\n"
    assert python(code, timeout=300, PYTHONPATH=stand_in(tmp_path, body)) == "1 False\n"


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
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert datasets.config.TORCHCODEC_AVAILABLE is False
""" + STATUS  # fmt: skip
    assert python(code, ZOO_HOOKS=hooks) == {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
