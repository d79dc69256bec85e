"""Gemma-3n and the DETR models cannot be imported if timm is installed but cannot be loaded.

Symptom
-------
timm was installed for another torch or torchvision. Then Gemma-3n's configuration cannot be imported: it
raises the error of ``import timm``. This is also so for Gemma-3n's text model, which needs no timm, and
for code that goes through all configurations, such as ``list(CONFIG_MAPPING.values())``. Newer releases
ask for timm only if Pillow and torchvision are installed. In 4.x and early 5.x releases, DETR, Conditional
DETR, Deformable DETR, Table Transformer and Grounding DINO fail in the same way.

Cause
-----
``is_timm_available`` only checks whether timm is installed. ``configuration_gemma3n`` calls it and imports
timm in the next line. The vision part takes the labels of ImageNet from timm. In older releases, the modules
of the DETR models did the same. They use timm only for backbones that come from timm.

Repair
------
When a module calls ``is_timm_available`` and then imports timm, zoo-hooks tries that import during the
call. If the import fails, the answer is False from then on, and a warning with the error is logged once. So
everything that works without timm works. Code that needs timm, such as ``TimmWrapperModel`` and
``TimmBackbone``, raises timm's own import error. Code that only calls ``is_timm_available`` triggers no
import, and timm itself is not changed.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="timm",
    questions=("is_timm_available",),
    flags=("_is_package_available", "_timm_available"),
)
MODES = "NEAREST NEAREST_EXACT BOX BILINEAR HAMMING BICUBIC LANCZOS"
TORCHVISION = {  # without it and Pillow a newer transformers does not ask for timm
    "torchvision/__init__.py": "",
    "torchvision/transforms/__init__.py": f"import enum\nInterpolationMode = enum.Enum('I', '{MODES}')\n",
    "torchvision/transforms/functional.py": "pil_to_tensor = None\n",
    "torchvision/io.py": "",
    "torchvision-9.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 9.0.0\n",
    "torchvision-9.0.0.dist-info/top_level.txt": "torchvision",
}
MODELS = """
from importlib import import_module
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
for name, module in (("gemma3n", "configuration_gemma3n"), ("detr", "modeling_detr")):
    if name in CONFIG_MAPPING_NAMES:
        import_module(f"transformers.models.{name}.{module}")
"""


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def images() -> dict[str, str]:
    """The files that stand in for Pillow and torchvision, of those that are not there."""
    from zoo_hooks.patches.transformers import torchvision_broken

    pillow = {} if find_spec("PIL") else torchvision_broken.PILLOW
    return pillow if find_spec("torchvision") else pillow | TORCHVISION


def canary() -> Figure:
    return _broken.with_broken("timm", MODELS, images())


PATCH = Patch(
    module=__name__,
    title="Gemma-3n and the DETR models cannot be imported if timm is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("@ transformers.models @ timm.__init__",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/gemma3n/configuration_gemma3n.py#L30",
        "https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/models/detr/modeling_detr.py#L39",
    ),
    measures="result of importing Gemma-3n's configuration and DETR with a broken timm (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
