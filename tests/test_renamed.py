"""A parameter that upstream renames is no bug's symptom, and costs no repair."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import HERE, PATCH
from test_matrix import HERE as PATCHES
from test_matrix import named


@pytest.fixture(scope="module")
def worlds(request, tmp_path_factory):
    """What came of each chosen patch in each world; beside the others, where it cannot be imported alone."""
    file = tmp_path_factory.mktemp("renamed") / "worlds.json"
    mine = test_renamed_parameters_leave_the_status_or_make_it_unknown
    chosen = [item.callspec.params["patch"] for item in request.session.items if item.function is mine]

    def seen(hooks, *patches):
        command = [sys.executable, HERE / "renamed.py", file, *patches]
        subprocess.run(command, env=os.environ | {"ZOO_HOOKS": hooks}, check=True, timeout=1800)
        return json.loads(file.read_text())

    found = seen("0", *(patch.id for patch in chosen))
    for patch in [patch for patch, one in found.items() if one is None]:
        found |= seen(f"-{patch}", patch)
    return found


LEFT = {
    "transformers/gemma4-experts-fp16": "the canary gives nan",
    "transformers/gemma4-vision-pooler-fp16": "the canary gives 128",
    "transformers/moe-router-logits-unrecorded": "got multiple values for keyword argument 'use_cache'",
}
"""Upstream's again where other code wraps what is repaired, which would be handed what it does not know.

The last is raised without the repair too: a decorator of transformers adds the argument under its old name.
"""


@pytest.mark.parametrize("patch", PATCHES, ids=named)
def test_renamed_parameters_leave_the_status_or_make_it_unknown(patch, worlds):
    """The status is the same or UNKNOWN, and what is repaired works; FAILED is no answer."""
    faults = [f"{world}: {fault}" for world, fault in worlds[patch.id].items() if fault]
    if patch.id in LEFT and faults:
        assert all(LEFT[patch.id] in fault for fault in faults), "\n".join(faults)
    else:
        assert not faults, "\n".join(faults)


UPSTREAM = """
def answer(question, *, cache=None):
    return question

class Model:
    def forward(self, states, cache=None):
        return answer(states, cache=cache) - 1

def run(states):
    return Model().forward(states=states)
"""
PATCHED = """
from contextlib import suppress

def probe(module):
    with suppress(TypeError):
        return Verdict.AFFECTED if module.Model.forward(None, {given}) == 0 else Verdict.FIXED
    return Verdict.{otherwise}

def repair(module, changes):
    def make(original):
        def forward({takes}):
            return original({takes}) + 1
        return forward
    changes.wrap(module.Model, "forward", make)

def canary():
    import importlib

    module = importlib.import_module(PATCH.targets[0])
    return Figure(value := module.run(1), healthy=value == 1)

"""
EXAMPLES = [
    ("1", "UNKNOWN", "self, *args, **kwargs", []),
    ("1, cache=None", "UNKNOWN", "self, *args, **kwargs", []),
    ("1, cache=None", "AFFECTED", "self, *args, **kwargs", [
        "Model.forward, cache renamed",
        "Model.forward, wanting one argument more",
        "all that is repaired, renamed",
    ]),
    ("states=1", "UNKNOWN", "self, states", ["all that is repaired, decorated"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "otherwise", "takes", "faults"), EXAMPLES)
def test_a_habit_that_a_rename_punishes_is_found(zoo, given, otherwise, takes, faults):
    """The probe's own TypeError taken for the symptom; a wrapper that hands on what it has named itself."""
    zoo.module("zoo_upstream.core", UPSTREAM)
    head, _, rest = PATCH.format(target="zoo_upstream.core", upstream="zoo_upstream", more="").partition(
        "def probe"
    )
    body = PATCHED.format(given=given, otherwise=otherwise, takes=takes)
    zoo.patch("zoo_upstream.core", source=head + body + rest[rest.index("PATCH = ") :])
    code = f"""
        sys.path.insert(0, {str(HERE)!r})
        import json, renamed
        from zoo_hooks import catalogue
        print(json.dumps(renamed.seen([catalogue.get("bug")])["zoo_upstream/bug"]))
    """
    seen = json.loads(zoo.run(code, ZOO_HOOKS="0"))
    assert [world for world, fault in seen.items() if fault] == [
        f"zoo_upstream.core: {world}" for world in faults
    ]
    assert len(seen) == 6
