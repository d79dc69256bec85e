"""Training fails if mlflow is installed but cannot be imported.

Symptom
-------
If ``import mlflow`` raises, a ``Trainer(...)`` that reports to "all" fails with that error, even if mlflow
was not requested. In 4.x "all" is the default, in 5.x it takes ``report_to="all"``. ``from trl import
GRPOTrainer`` raises the error too, and so does trl's RLOO trainer.

Cause
-----
``is_mlflow_available`` only checks whether mlflow is installed. ``get_available_reporting_integrations``
then lists mlflow, and ``MLflowCallback`` imports it. trl's profiling module calls ``is_mlflow_available``
too, and imports mlflow in the next line.

Repair
------
zoo-hooks imports mlflow when "all" is looked up, and when a module calls ``is_mlflow_available`` and is
about to import mlflow. If this fails, the answer is False from then on, and a warning with the error is
logged once. So "all" leaves mlflow out. Code that names mlflow gets the error of its import: by
``report_to="mlflow"``, or by creating an ``MLflowCallback``. mlflow itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="mlflow",
    questions=("is_mlflow_available",),
    flags=("importlib",),
    loading=("get_available_reporting_integrations",),
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken(
        "mlflow",
        # what the callback's __del__ raises would be told last
        "import sys\nsys.unraisablehook = lambda _: None\n"
        "from transformers.integrations.integration_utils import *\n"
        "[one() for one in get_reporting_integration_callbacks('all')]",
    )


PATCH = Patch(
    module=__name__,
    title="Training fails if mlflow is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ transformers.integrations.integration_utils @ mlflow.__init__",
        "@ trl.extras.profiling @ mlflow.__init__",
    ),
    targets=("transformers.integrations.integration_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/integration_utils.py#L175",
    ),
    measures="result of creating all installed callbacks beside a broken mlflow (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
