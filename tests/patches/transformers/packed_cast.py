"""What must hold of a model that casts to the dtype of a weight, for the tests of patches that repair one."""

from __future__ import annotations

import importlib
import inspect
import types

import pytest
import torch

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.patches.transformers import _packed_cast


class Packed(torch.nn.Module):
    """A layer with a packed weight, which notes the dtype of what it is given."""

    def __init__(self, dtype, bias, kept):
        super().__init__()
        self.register_buffer("weight", torch.zeros(4, 4, dtype=dtype))
        self.weight.quant_state = kept and types.SimpleNamespace(dtype=kept)
        self.bias = bias and torch.nn.Parameter(torch.zeros(4, dtype=bias))
        self.seen = []

    def forward(self, given):
        self.seen.append(given.dtype)
        raise StopIteration


class PackedCast:
    """Tests; a subclass names the patch, the class whose forward casts, and its layer."""

    patch: str
    kind: str
    layer: str

    @property
    def record(self):
        return catalogue.get(self.patch)

    @property
    def target(self):
        return importlib.import_module(self.record.targets[0])

    def applied(self):
        return zoo_hooks.report()[self.patch].status.name == "APPLIED"

    def reached(self, layer, given, *, keyword=False):
        """The dtype that reaches a layer, from a forward of the class on stand-ins for its other parts."""
        kind = getattr(self.target, self.kind)
        made = kind.__new__(kind)
        torch.nn.Module.__init__(made)
        for name in ("wi_0", "wi_1", "act", "dropout"):
            setattr(made, name, torch.nn.Identity())
        setattr(made, self.layer, layer)
        names = [name for name in inspect.signature(kind.forward).parameters if name != "kwargs"][1:]
        values = [given, None][: len(names)]
        args, more = ((), dict(zip(names, values, strict=True))) if keyword else (values, {})
        with pytest.raises(StopIteration):
            kind.forward(made, *args, **more)
        return layer.seen[-1]

    @pytest.mark.parametrize("keyword", [False, True])
    @pytest.mark.parametrize("bits", [torch.uint8, torch.int8])
    @pytest.mark.parametrize(
        ("kept", "bias", "dtype"),
        [
            (torch.bfloat16, None, torch.bfloat16),
            (None, torch.float16, torch.float16),
            (None, None, torch.float32),
        ],
    )
    def test_what_reaches_a_packed_layer_has_the_dtype_that_its_weight_had(
        self, bits, kept, bias, dtype, keyword
    ):
        """As its quantiser has kept it, or of the bias; else that of what was given."""
        seen = self.reached(Packed(bits, bias, kept), torch.full((1, 4), 0.75), keyword=keyword)
        if bits is torch.uint8 or self.layer != "wo":  # upstream leaves those alone
            assert seen is dtype

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_what_reaches_a_layer_that_is_not_packed_is_cast_as_ever(self, dtype):
        """To the dtype of its weight."""
        assert self.reached(Packed(dtype, None, None), torch.full((1, 4), 0.75)) is dtype

    def test_the_forward_is_a_plain_function_and_upstreams_own_where_nothing_is_wrong(self):
        """It looks as it did."""
        forward, applied = getattr(self.target, self.kind).forward, self.applied()
        assert isinstance(forward, types.FunctionType)
        with zoo_hooks.disabled(self.patch):
            assert (getattr(self.target, self.kind).forward is forward) != applied

    def test_the_probe_leaves_unknown_code_alone(self):
        """A forward that does not come to its layer is UNKNOWN; one that leaves a floating dtype is FIXED."""

        class Other:
            def forward(self, given, *_):
                return given

        class Right:
            layer = self.layer

            def forward(self, given, *_):
                return getattr(self, Right.layer)(given)

        for kind, verdict in ((Other, "UNKNOWN"), (Right, "FIXED")):
            assert self.record.probe(types.SimpleNamespace(**{self.kind: kind})).name == verdict

    def test_packing_brings_no_more_than_its_own_error(self, measured):
        """The canary's figure: wrong without the repair, and what four bits bring with it."""
        row = measured(self.patch)
        assert (row["without"] > _packed_cast.HEALTHY) == self.applied()
        assert row["with"] < _packed_cast.HEALTHY
