"""datasets takes torchcodec for usable when it is only installed.

Symptom
-------
Where torchcodec is installed but cannot be loaded (no FFmpeg, or built for another torch), each use of
an ``Audio`` or ``Video`` column ends in ``RuntimeError: Could not load libtorchcodec`` or ``OSError:
Could not load this library``, also where nothing has to be decoded: ``Video().encode_example(path)``.
Without torchcodec the same calls work, or say what to install.

Cause
-----
``datasets.config.TORCHCODEC_AVAILABLE`` is ``find_spec("torchcodec") is not None``, and the places
that import torchcodec expect no error but ImportError.

Repair
------
When ``datasets.config`` is imported and torchcodec is there, it is loaded once. If that fails, the flag is
False and ``import torchcodec`` raises ImportError in this process, which is told at INFO. A torchcodec
that loads stays as it is. Where torchcodec is installed, that costs the import of torch, which datasets
before 5.0 imports anyway; where it is not, nothing is loaded.
"""

from __future__ import annotations

import sys
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.datasets import _torchcodec


def probe(module: ModuleType) -> Verdict:
    flag = getattr(module, "TORCHCODEC_AVAILABLE", None)
    if not isinstance(flag, bool):
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if flag and not _torchcodec.loads() else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.replace(module, "TORCHCODEC_AVAILABLE", value=False)
    changes.replace(sys.modules, "torchcodec", None)
    changes.tell(
        "torchcodec is installed but cannot be loaded, so it counts as not installed; "
        "to see why, import it with ZOO_HOOKS=0"
    )


def canary() -> Figure:
    from datasets import Video

    encoded = Video().encode_example("clip.mp4")
    return Figure(encoded["path"], healthy=encoded == {"path": "clip.mp4", "bytes": None})


PATCH = Patch(
    module=__name__,
    title="datasets uses torchcodec when it is installed but cannot be loaded",
    targets=("datasets.config",),
    affects=("datasets>=4.3.0", "torchcodec"),
    links=(
        "https://github.com/huggingface/datasets/issues/7707",
        "https://github.com/meta-pytorch/torchcodec/issues/912",
    ),
    measures="path of a video that is encoded by its path (right: clip.mp4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
