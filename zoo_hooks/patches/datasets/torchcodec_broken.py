"""datasets uses torchcodec even if it is installed but cannot be loaded.

Symptom
-------
If torchcodec is installed but cannot be loaded (no FFmpeg, or built for another torch), each use of an
``Audio`` or ``Video`` column raises ``RuntimeError: Could not load libtorchcodec`` or ``OSError: Could not
load this library``. This happens even if nothing has to be decoded: ``Video().encode_example(path)``.
Without torchcodec, the same calls work, or say what to install.

Cause
-----
``datasets.config.TORCHCODEC_AVAILABLE`` is ``find_spec("torchcodec") is not None``, and the code that
imports torchcodec expects no error except ImportError.

Repair
------
zoo-hooks imports torchcodec once, when a video is encoded, or when the flag is read after other code has
imported torchcodec. datasets is about to import it itself then. If the import fails, the flag is false from
then on, and a warning with the error is logged once. So everything that needs no decoder works. Code that
needs a decoder raises torchcodec's own import error. Nothing is imported earlier.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken

CONFIG, FLAG = "datasets.config", "TORCHCODEC_AVAILABLE"


class _Flag:
    """True until torchcodec is known to be broken; who asks for it beside the module's name loads nothing."""

    def __init__(self, torchcodec: Any) -> None:
        self.torchcodec = torchcodec

    def __bool__(self) -> bool:
        unasked = self.torchcodec.works is None and "torchcodec" not in sys.modules
        return unasked or self.torchcodec.usable()

    def __repr__(self) -> str:
        return repr(bool(self))


def probe(_: ModuleType) -> Verdict:
    flag = getattr(sys.modules[CONFIG], FLAG, None)
    if flag is True:
        return Verdict.AFFECTED
    return Verdict.FIXED if flag is False or isinstance(flag, _Flag) else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    torchcodec = _broken.Torchcodec(changes)

    def asking(original: Callable[..., Any]) -> Callable[..., Any]:
        def encode_example(self: Any, *args: Any, **kwargs: Any) -> Any:
            torchcodec.usable()
            return original(self, *args, **kwargs)

        return encode_example

    changes.replace(sys.modules[CONFIG], FLAG, _Flag(torchcodec))
    changes.wrap(module.Video, "encode_example", asking)
    for feature in (sys.modules["datasets.features.audio"].Audio, module.Video):
        changes.wrap(feature, "decode_example", _by_name)


def _by_name(original: Callable[..., Any]) -> Callable[..., Any]:
    def decode_example(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.decode:
            import_module("torchcodec.decoders")  # raises its own error
        return original(self, *args, **kwargs)

    return decode_example


def canary() -> Figure:
    from datasets import Video

    encoded = Video().encode_example("clip.mp4")
    return Figure(encoded["path"], healthy=encoded == {"path": "clip.mp4", "bytes": None})


PATCH = Patch(
    module=__name__,
    title="datasets uses torchcodec even if it is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=(
        "Could not load libtorchcodec @ datasets.features",
        "Could not load this library @ datasets.features",
    ),
    targets=("datasets.features.video",),
    affects=("datasets>=4.0.0", "torchcodec"),
    links=(
        "https://github.com/huggingface/datasets/issues/7707",
        "https://github.com/meta-pytorch/torchcodec/issues/912",
    ),
    measures="path that encoding a video by its path returns (expected: clip.mp4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
