"""The recipes of docs/logs.md, with the real trackers, offline. ``tox -e trackers`` installs them."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import child

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text(encoding="utf-8")
READ = {
    "wandb": "found = dict(run.config)",
    "mlflow": "found = mlflow.get_run(run.info.run_id).data.params",
    "tensorboard": """
import glob
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = {}
for folder in {file.rpartition("/")[0] for file in glob.glob("runs/**/events*", recursive=True)}:
    data = EventAccumulator(folder).Reload().summary_metadata.get("_hparams_/session_start_info")
    if data:
        from tensorboard.plugins.hparams import plugin_data_pb2
        said = plugin_data_pb2.HParamsPluginData.FromString(data.plugin_data.content)
        found = {name: value.string_value for name, value in said.session_start_info.hparams.items()}
""",
}


def test_each_tracker_keeps_the_config_as_it_is(zoo, tmp_path, subtests):
    """Version, mode, applied ids and fingerprint, read back from what the tracker has written."""
    recipes = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", PAGE, re.DOTALL))
    assert recipes.keys() == READ.keys()
    zoo.module("fake")
    zoo.patch("fake")
    for name, recipe in recipes.items():
        code = f"import os; os.chdir({str(tmp_path)!r}); import fake\n{recipe}\n{READ[name]}\n"
        code += "print('FOUND', {k: found[k] for k in zoo_hooks.config()} == zoo_hooks.config())"
        said = child(
            zoo.preamble + code,
            WANDB_MODE="offline",
            WANDB_SILENT="true",
            MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db",
        ).stdout
        with subtests.test(name):
            assert "FOUND True" in said, said
