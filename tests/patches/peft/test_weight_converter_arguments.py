"""Adapters of MoE models with peft 0.19, which makes converters as transformers had them up to 5.5."""

from __future__ import annotations

import pytest
from conftest import child, python, recorded

PATCH = "peft/weight-converter-arguments"
MODULE = "peft.utils.transformers_weight_conversion"
CONVERTERS = f"""
import {MODULE} as module
def made(**more):
    merging = [module.MergeModulelist()]
    given = module.WeightConverter(["e.*.w.weight"], ["e.gate_up_proj"], operations=merging)
    for name, value in more.items():
        setattr(given, name, value)
    mapping = module.build_peft_weight_mapping([given], "default")
    return [one for one in mapping if isinstance(one, module.WeightConverter)]
"""
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with peft 0.19 and later 5.x")


def test_without_hooks_no_converter_is_made():
    """The symptom, in upstream's words."""
    told = child(f"{CONVERTERS}\nmade()", check=False, ZOO_HOOKS="0").stderr
    assert "WeightConverter.__init__() got an unexpected keyword argument 'distributed_operation'" in told


def test_what_the_model_s_converter_has_is_handed_on():
    """Both attributes, also None; what is not passed keeps the constructor's own value."""
    python(f"""
{CONVERTERS}
import copy, inspect, pickle
import zoo_hooks
assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
for one in made():
    assert one.distributed_operation is one.quantization_operation is None
for one in made(distributed_operation="sharding", quantization_operation="packing"):
    for same in (one, copy.deepcopy(one)):
        assert (same.distributed_operation, same.quantization_operation) == ("sharding", "packing")
plain = module.WeightConverter(["a"], ["b"], [module.Transpose()])
assert plain.distributed_operation is None and plain.source_patterns == ["a"]
assert "distributed_operation" not in inspect.signature(module.WeightConverter).parameters
class Mine(module.WeightConverter):
    pass
assert Mine("a", "b", operations=[module.Transpose()], distributed_operation=1).distributed_operation == 1
""")


def test_a_wrong_argument_is_still_an_error():
    """Only the two are taken."""
    told = child(f"import {MODULE} as m; m.WeightConverter('a', 'b', [m.Transpose()], other=1)", check=False)
    assert "unexpected keyword argument 'other'" in told.stderr


TOOL = """
def mend():
    import functools
    original = module.build_peft_weight_mapping
    def init(self, *args, distributed_operation=None, quantization_operation=None, **kwargs):
        WAS(self, *args, **kwargs)
        self.distributed_operation = distributed_operation
        self.quantization_operation = quantization_operation
    def build(*args, **kwargs):
        global WAS
        WAS, module.WeightConverter.__init__ = module.WeightConverter.__init__, init
        try:
            return original(*args, **kwargs)
        finally:
            module.WeightConverter.__init__ = WAS
    module.build_peft_weight_mapping = build
"""


def test_another_tools_repair_is_seen():
    """One that swaps the constructor for the time of each call: the probe finds nothing to repair."""
    told = python(f"""
{CONVERTERS}
{TOOL}
mend()
from zoo_hooks.patches.peft.weight_converter_arguments import probe
print(probe(module).name)
""", ZOO_HOOKS="0")  # fmt: skip
    assert told.split() == ["FIXED"]


def test_another_tools_repair_that_comes_second_does_no_harm():
    """Theirs goes around ours, and ours is there again afterwards."""
    python(f"""
{CONVERTERS}
{TOOL}
import zoo_hooks
ours = module.WeightConverter.__init__
mend()
assert len(made(distributed_operation="sharding")) == 2
assert made(distributed_operation="sharding")[0].distributed_operation == "sharding"
assert module.WeightConverter.__init__ is ours
assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
""")
