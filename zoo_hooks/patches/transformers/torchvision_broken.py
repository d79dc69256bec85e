"""transformers models and ``Trainer`` cannot be imported if torchvision is installed but cannot be loaded.

Symptom
-------
If torchvision was built for another torch, for example after an upgrade of torch alone, ``from transformers
import LlamaForCausalLM`` raises ``RuntimeError: operator torchvision::nms does not exist`` or
``ImportError: ... undefined symbol``. Often this error is wrapped in another one that names an unrelated
class. Importing ``Trainer``, peft or trl's trainers fails in the same way. Text models need no torchvision.

Cause
-----
``is_torchvision_available`` only checks whether torchvision is installed. ``image_utils`` calls it and
imports torchvision in the next line. Every model imports ``image_utils``, directly or indirectly.

Repair
------
When a module calls ``is_torchvision_available`` and then imports torchvision, zoo-hooks tries that import
during the call. If the import fails, the answer is False from then on, and a warning with the error is
logged once. So everything that works without torchvision works. This includes text models, and image
processors with Pillow. Code that names torchvision, for example through a class that needs it, raises
torchvision's own import error. Code that only calls ``is_torchvision_available`` triggers no import, and
torchvision itself is not changed.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="torchvision",
    questions=("is_torchvision_available", "is_torchvision_v2_available", "is_torchvision_greater_or_equal"),
    flags=("_is_package_available", "_torchvision_available"),
    home="image_utils.py",
)
PILLOW = {  # without it a newer transformers does not ask for torchvision
    "PIL/__init__.py": "__version__ = '13.0.0'\n",
    "PIL/ImageOps.py": "",
    "PIL/Image.py": "import enum\nclass Image: pass\n"
    "Resampling = enum.IntEnum('R', 'NEAREST LANCZOS BILINEAR BICUBIC BOX HAMMING', start=0)\n"
    "globals().update(Resampling.__members__)\n",
    "pillow-13.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pillow\nVersion: 13.0.0\n",
    "pillow-13.0.0.dist-info/top_level.txt": "PIL",
}


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    beside = {} if find_spec("PIL") else PILLOW
    return _broken.with_broken("torchvision", "import transformers.image_utils", beside)


PATCH = Patch(
    module=__name__,
    title="transformers models and Trainer cannot be imported if torchvision is installed but broken",
    severity="crash",
    guard=True,
    symptoms=(
        "operator torchvision::nms does not exist @ transformers.image_utils",
        "undefined symbol @ transformers.image_utils @ torchvision.__init__",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/issues/38065",
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/image_utils.py#L58",
    ),
    measures="result of importing transformers.image_utils with a broken torchvision (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
