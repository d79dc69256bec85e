"""Training fails on a mlflow that is installed but cannot be imported.

Symptom
-------
Where ``import mlflow`` raises, ``Trainer(...)`` that reports to "all" ends in that error, though nobody
asked for mlflow: in 4.x by default, in 5.x with ``report_to="all"``. ``from trl import GRPOTrainer`` and
RLOO raise it too.

Cause
-----
``is_mlflow_available`` says whether it is installed, ``get_available_reporting_integrations`` lists it, and
``MLflowCallback`` imports it. trl's profiling asks that and imports it in the next line.

Repair
------
Where "all" is looked up, or a module asks and is about to import mlflow, it is imported there and then. If
that fails, the answer is False from then on, which is told once in a warning with the error. So "all"
leaves it out. Who names it, by ``report_to="mlflow"`` or by making a ``MLflowCallback``, gets its own
error. mlflow itself is not touched.
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
    title="training fails on a mlflow that is installed but cannot be imported",
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
    measures="what making the callbacks of all that is installed gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
