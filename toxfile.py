"""tox makes an environment of each cell in ``tests/cells.toml``, as its [testenv:real] says."""

import runpy
from collections.abc import Iterable
from pathlib import Path

from tox.config.loader.memory import MemoryLoader
from tox.config.sets import ConfigSet
from tox.config.types import EnvList
from tox.plugin import impl
from tox.session.state import State

CELLS = runpy.run_path(str(Path(__file__).with_name("tests") / "cell.py"))["cells"]()


@impl
def tox_extend_envs() -> Iterable[str]:
    """The names of the cells."""
    return tuple(CELLS)


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:  # noqa: ARG001
    """What is a cell's own; all else stands in tox.ini."""
    for name, row in CELLS.items():
        # what shares nothing asks the oracle for the values of torch
        depends = EnvList(row["over"] or ["oracle"])
        loader = MemoryLoader(base=["testenv:real"], labels=[row["label"]], depends=depends)
        state.conf.memory_seed_loaders[name].append(loader)
