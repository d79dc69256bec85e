"""Trainer runs whatever a checkpoint's random state file says (CVE-2026-1839).

Symptom
-------
Resuming from a checkpoint executes code that somebody has put into its ``rng_state.pth``: with
torch before 2.6, or with ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``, which people set so that old
checkpoints load.

Cause
-----
``Trainer._load_rng_state`` calls ``torch.load(rng_file)`` without ``weights_only=True``, so torch's
default decides, and that can be the free unpickler.

Repair
------
The file is loaded here with ``weights_only=True``, and the method reads a copy of the outcome in a
private folder. A file that holds more than random states is refused with torch's own error. As in the
mended release, torch before 2.6 is refused, for its ``weights_only`` is no protection. No other
``torch.load`` is touched.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


def probe(module: ModuleType) -> Verdict:
    code = inspect.unwrap(module.Trainer._load_rng_state).__code__  # noqa: SLF001
    if "weights_only" in repr(code.co_consts):
        return Verdict.FIXED
    return Verdict.AFFECTED if "load" in code.co_names and "torch" in code.co_names else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def safely(original: Callable[..., None]) -> Callable[..., None]:
        def load_rng_state(self: Any, checkpoint: Any) -> None:
            name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"
            file = Path(checkpoint or "", name)
            if checkpoint is None or not file.is_file():
                return original(self, checkpoint)
            module.check_torch_load_is_safe()
            with module.safe_globals():
                states = module.torch.load(file, weights_only=True)
            with tempfile.TemporaryDirectory(prefix="zoo-hooks-") as folder:
                module.torch.save(states, Path(folder, name))
                return original(self, folder)

        return load_rng_state

    changes.wrap(module.Trainer, "_load_rng_state", safely)


def canary() -> Figure:
    from unittest import mock

    import torch
    from transformers import Trainer

    trainer = SimpleNamespace(args=SimpleNamespace(world_size=1))
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder, "created")
        torch.save(_Touches(mark), Path(folder, "rng_state.pth"))
        with mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"), suppress(Exception):
            Trainer._load_rng_state(trainer, folder)  # noqa: SLF001 - refuses it, or fails on what it ran
        return Figure(int(mark.exists()), healthy=not mark.exists())


class _Touches:
    """Pickles as a call that creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


PATCH = Patch(
    module=__name__,
    title="Trainer runs code that a checkpoint's random state file holds",
    targets=("transformers.trainer",),
    affects=("transformers<5.0.0rc3",),
    links=(
        "https://github.com/huggingface/transformers/pull/43140",
        "https://nvd.nist.gov/vuln/detail/CVE-2026-1839",
    ),
    measures="files that loading a foreign random state created (right: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
