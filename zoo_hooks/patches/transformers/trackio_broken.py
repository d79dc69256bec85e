"""Training fails if trackio is installed but cannot be imported.

Symptom
-------
If ``import trackio`` raises, a ``Trainer(...)`` that reports to "all" raises the same error, even if the
user did not ask for trackio. In 4.x, reporting to "all" is the default; in 5.x it takes
``report_to="all"``. ``from trl import GRPOTrainer`` raises the error too, and so does the import of the
RLOO trainer.

Cause
-----
``is_trackio_available`` only checks whether trackio is installed. ``get_available_reporting_integrations``
then lists trackio, and ``TrackioCallback`` imports it. trl's trainers call ``is_trackio_available`` and
import trackio in the next line.

Repair
------
zoo-hooks tries to import trackio when "all" is resolved, and when a module calls ``is_trackio_available``
and then imports trackio. If the import fails, the answer is False from then on, and a warning with the
error is logged once. So "all" leaves trackio out. Code that names trackio, by ``report_to="trackio"`` or by
creating a ``TrackioCallback``, raises trackio's own error. trackio itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="trackio",
    questions=("is_trackio_available",),
    flags=("importlib",),
    loading=("get_available_reporting_integrations",),
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken(
        "trackio",
        "from transformers.integrations.integration_utils import *\n"
        "[one() for one in get_reporting_integration_callbacks('all')]",
    )


PATCH = Patch(
    module=__name__,
    title="Training fails if trackio is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ transformers.integrations.integration_utils @ trackio.__init__",
        "@ trl.extras.profiling @ trackio.__init__",
    ),
    targets=("transformers.integrations.integration_utils",),
    affects=("transformers>=4.54.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/integration_utils.py#L115",
    ),
    measures="result of creating all reporting callbacks with a broken trackio (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
