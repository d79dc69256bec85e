"""``Trainer`` executes code from a checkpoint's random state file (CVE-2026-1839).

Symptom
-------
Resuming from a checkpoint executes any code that an attacker has put into its ``rng_state.pth``. This
happens with torch before 2.6, or with ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``, which people set so that old
checkpoints load.

Cause
-----
``Trainer._load_rng_state`` calls ``torch.load(rng_file)`` without ``weights_only=True``. So torch's default
decides, and that can be the unrestricted unpickler.

Repair
------
zoo-hooks loads the file with ``weights_only=True`` and saves the result in a private temporary folder. The
original method reads this copy and never sees the file itself. A file that holds more than random states is
refused with torch's own error. Valid states are restored with every default of torch. This includes
transformers up to 4.46, where NumPy's states otherwise stop a resume with torch from 2.6 on. With torch
before 2.6, ``weights_only`` is no protection. Releases of transformers that refuse to load optimizers with
such a torch now refuse this file too. No other call of ``torch.load`` is changed. Up to 4.50, optimizer and
scheduler are loaded without restriction too, and this patch does not cover them.
"""

from __future__ import annotations

import inspect
import pickle
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

CHECK = "check_torch_load_is_safe"
FILE = "rng_state.pth"


def probe(module: ModuleType) -> Verdict:
    code = inspect.unwrap(module.Trainer._load_rng_state).__code__  # noqa: SLF001
    if "weights_only" in repr(code.co_consts):
        return Verdict.FIXED
    # Torch before 2.5 can only be refused: it cannot be told to allow NumPy's states for a while.
    able = hasattr(module, CHECK) or hasattr(module.torch.serialization, "safe_globals")
    return Verdict.AFFECTED if able and {"torch", "load"} <= {*code.co_names} else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    torch, numpy = module.torch, module.np
    refuse_old_torch = getattr(module, CHECK, bool)
    numbers = numpy.zeros(1, numpy.uint32)
    # What a state of NumPy is made of: the list of upstream's own safe_globals.
    made_of = numbers.__reduce__()[0], numpy.ndarray, numpy.dtype, type(numbers.dtype)

    def safely(original: Callable[..., None]) -> Callable[..., None]:
        def load_rng_state(self: Any, *args: Any, **kwargs: Any) -> None:
            (checkpoint,) = (*args, *kwargs.values())
            name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else FILE
            file = Path(checkpoint or "", name)
            if checkpoint is None or not file.is_file():
                return original(self, *args, **kwargs)
            refuse_old_torch()
            known = torch.serialization.get_safe_globals()  # those of the user are not to be taken away
            with torch.serialization.safe_globals([one for one in made_of if one not in known]):
                states = torch.load(file, weights_only=True)
                with tempfile.TemporaryDirectory(prefix="zoo-hooks-") as folder:
                    torch.save(states, Path(folder, name))
                    return original(self, folder)

        return load_rng_state

    changes.wrap(module.Trainer, "_load_rng_state", safely)


def canary() -> Figure:
    """Restores good states first, which must not raise."""
    from unittest import mock

    import torch
    from transformers import Trainer

    trainer = SimpleNamespace(args=SimpleNamespace(world_size=1, process_index=0, parallel_mode=None))
    free = mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    with tempfile.TemporaryDirectory() as folder, free:
        file, mark = Path(folder, FILE), Path(folder, "created")
        Trainer._save_rng_state(trainer, folder)  # noqa: SLF001
        Trainer._load_rng_state(trainer, folder)  # noqa: SLF001
        torch.save({**torch.load(file), "more": _Touches(mark)}, file)
        with suppress(pickle.UnpicklingError):  # which is how torch refuses a file
            Trainer._load_rng_state(trainer, folder)  # noqa: SLF001
        return Figure(int(mark.exists()), healthy=not mark.exists())


class _Touches:
    """Pickles as a call that creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


PATCH = Patch(
    module=__name__,
    title="Trainer executes code from a checkpoint's random state file",
    severity="security",
    guard=True,
    targets=("transformers.trainer",),
    affects=("transformers<5.0.0rc3,!=4.51.*",),
    links=(
        "https://github.com/huggingface/transformers/pull/43140",
        "https://nvd.nist.gov/vuln/detail/CVE-2026-1839",
    ),
    measures="files created by code in a checkpoint's random state file (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
