"""Nothing of transformers can be imported beside a torchvision that is installed but cannot be loaded.

Symptom
-------
Where torchvision was built for another torch, as after an upgrade of torch alone, ``from transformers import
LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers end in ``RuntimeError: operator
torchvision::nms does not exist`` or ``ImportError: ... undefined symbol``, often wrapped in one that names a
class that has nothing to do with it. Text models need no torchvision.

Cause
-----
``is_torchvision_available`` says whether it is installed. ``image_utils``, which every model imports in the
end, asks that and imports torchvision in the next line.

Repair
------
Where a module asks and is about to import torchvision, it is imported there and then. If that fails, the
answer is False from then on, which is told once in a warning with the error. So all that works without
torchvision works: text models, and image processors with Pillow. Who names it, as by a class that needs it,
gets its own error. Nothing is loaded for those who only ask, and torchvision itself is not touched.
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
    title="nothing of transformers can be imported beside a torchvision that cannot be loaded",
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
    measures="what importing transformers.image_utils with such a torchvision gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
