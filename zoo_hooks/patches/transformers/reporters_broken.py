"""Training fails if a reporter such as SwanLab or ClearML is installed but cannot be imported.

Symptom
-------
If ``import swanlab``, ``clearml``, ``dvclive``, ``codecarbon`` or ``neptune`` raises, a ``Trainer(...)`` that
reports to "all" raises the same error, even if the user did not ask for that reporter. In 4.x, reporting to
"all" is the default; in 5.x it takes ``report_to="all"``. With a broken tensorboard the error is
``No module named 'tensorboardX'``.

Cause
-----
``is_swanlab_available`` and the like only check whether the package is installed.
``get_available_reporting_integrations`` then lists the reporter, and its callback imports the package. If
``torch.utils.tensorboard`` raises ImportError, the callback imports tensorboardX instead.

Repair
------
zoo-hooks tries to import these packages when "all" is resolved. If an import fails, the answer is False from
then on, and a warning with the error is logged once. So "all" leaves that reporter out. Code that names it,
by ``report_to="swanlab"`` or by creating its callback, raises the package's own error. The packages
themselves are not changed. Where tensorboardX is installed, nothing is changed for tensorboard.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

NAMES = ("clearml", "codecarbon", "dvclive", "neptune", "swanlab")
ROWS = tuple(
    _optional.Row(
        name,
        (f"is_{name}_available",),
        ("importlib", "_has_neptune"),
        loading=("get_available_reporting_integrations",),
    )
    for name in NAMES
)
TENSORBOARD = _optional.Row(
    "torch.utils.tensorboard",
    ("is_tensorboard_available",),
    ("importlib",),
    loading=("get_available_reporting_integrations",),
    refusing=("__init__",),
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, *_rows())


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, *_rows())


def _rows() -> tuple[_optional.Row, ...]:
    """Without tensorboard, if the callback has tensorboardX instead."""
    return ROWS if find_spec("tensorboardX") else (*ROWS, TENSORBOARD)


def canary() -> Figure:
    code = """
sys.unraisablehook = lambda _: None  # what a callback's __del__ raises would be told last
from transformers.integrations.integration_utils import *
[one() for one in get_reporting_integration_callbacks("all")]
"""
    return _broken.with_broken(NAMES[0], code, _broken.packages(*NAMES[1:], "tensorboard"))


PATCH = Patch(
    module=__name__,
    title="Training fails if a reporter such as SwanLab or ClearML is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        *(f"@ transformers.integrations.integration_utils @ {name}.__init__" for name in NAMES),
        "No module named 'tensorboardX' @ transformers.integrations.integration_utils",
    ),
    targets=("transformers.integrations.integration_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/integration_utils.py#L207",
    ),
    measures="result of creating all reporting callbacks beside six broken reporters (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
