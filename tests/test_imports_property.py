"""Random trees of modules, imported in random orders, are loaded with us as they are without us."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from conftest import Zoo, child
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

NAMES = ["a", "a.b", "a.b.c", "a.b.d", "a.e", "f", "f.g", "f.h", "i"]
BODIES = {
    "plain": "",
    "raises": "raise ValueError(__name__)",
    "raises first": "if sys.tries[__name__] == 1: raise ImportError(__name__)",
    "replaced": "sys.modules[__name__] = type('Other', (types.ModuleType,), {{}})(__name__); "
    "sys.modules[__name__].value = 1",
    "replaced by an object": "sys.modules[__name__] = types.SimpleNamespace(value=1)",
    "gone": "del sys.modules[__name__]",
    "none": "sys.modules[__name__] = None",
}
STATEMENTS = ["import {name}", "from {parent} import {last}", "importlib.import_module({name!r})"]

CHILD = """
import importlib, json, traceback, types

def describe(name, module):
    if module is None:
        return None
    spec = getattr(module, "__spec__", None)
    loader = spec and spec.loader
    return {
        "type": type(module).__name__,
        "names": sorted(set(vars(module)) - {"__builtins__"}),
        "value": module.value if name not in targets or not hasattr(module, "value") else "target",
        "repaired": getattr(module, "value", None),
        "file": getattr(module, "__file__", None),
        "spec": spec and [spec.name, spec.origin, spec.submodule_search_locations, sorted(vars(spec))],
        "loader": loader and [type(loader).__name__, sorted(vars(loader)), loader is module.__loader__],
    }

def run(order):
    sys.tries = dict.fromkeys(names, 0)
    sys.log = []
    for name in names:
        sys.modules.pop(name, None)
    steps = []
    for name, statement in order:
        try:
            exec(statement, {"importlib": importlib})
            ended = "well"
        except Exception as error:
            hidden = sys.version_info < (3, 11) and "import_module" in traceback.format_exc()
            ended = [type(error).__name__, str(error), "" if hidden else traceback.format_exc()]
        loaded = {name: describe(name, sys.modules[name]) for name in names if name in sys.modules}
        steps.append([name, ended, list(sys.log), loaded])
    return steps

print(json.dumps([run(order) for order in orders]))
"""


def split(name: str) -> dict[str, str]:
    parent, _, last = name.rpartition(".")
    return {"name": name, "parent": parent or name, "last": last or "value"}


statements = st.builds(
    lambda name, form: [name, form.format(**split(name))], st.sampled_from(NAMES), st.sampled_from(STATEMENTS)
)
modules = st.fixed_dictionaries(
    {
        "body": st.sampled_from(["plain"] * 5 + sorted(BODIES)),
        "above": st.lists(statements, max_size=2),
        "below": st.lists(statements, max_size=2),
    }
)
trees = st.fixed_dictionaries(dict.fromkeys(NAMES, modules))
orders = st.lists(st.lists(statements, min_size=1, max_size=6), min_size=4, max_size=4)
targets = st.sets(st.sampled_from(NAMES), min_size=1)


def source(module: dict) -> str:
    above, below = ([f"{statement}" for _, statement in module[side]] for side in ("above", "below"))
    lines = [
        "import importlib, sys, types",
        "sys.tries[__name__] += 1",
        "sys.log.append(__name__)",
        "if sys.tries[__name__] > 3: raise RuntimeError('again and again')",
        *above,
        "value = 1",
        BODIES[module["body"]].format(),
        *below,
        "sys.log.append('end of ' + __name__)",
    ]
    return "\n".join(lines) + "\n"


def load(zoo: Zoo, order: list, word: str) -> list:
    code = f"{zoo.preamble}\nnames, targets, orders = {NAMES!r}, {zoo.targets!r}, {order!r}\n{CHILD}"
    return json.loads(child(code, "-B", ZOO_HOOKS=word).stdout)


def repaired(steps: list) -> list[dict]:
    """Take what the repair shows out of what was seen."""
    return [
        module.pop("repaired")
        for order in steps
        for _, _, _, loaded in order
        for name, module in loaded.items()
        if module and module["value"] == "target"
    ]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(trees, targets, orders)
def test_random_trees_load_as_without_us(tree, watched, order):
    """Names, attributes, order of bodies, exceptions and tracebacks agree; loaded targets are repaired."""
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(Path(folder))
        for name, module in tree.items():
            zoo.module(name, source(module), package=any(other.startswith(f"{name}.") for other in NAMES))
        for name in watched:
            zoo.patch(name, "bug_" + name.replace(".", "_"))
        ours, bare = (load(zoo, order, word) for word in ("1", "0"))
    values = repaired(ours)
    assert len(values) == len(repaired(bare))
    assert ours == bare
    assert set(values) <= {2}
    event(f"repaired: {2 in values}")
