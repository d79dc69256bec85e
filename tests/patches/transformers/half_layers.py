"""What a down projection may be or have, for the tests of the patches that scale what it is given."""

from __future__ import annotations

import types

import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module, remove_hook_from_module
from torch.nn.utils import parametrizations

MORE = 300.0


class Around(torch.nn.Module):
    """A layer around a projection, as some adapters are."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x) + MORE


class Own(torch.nn.Linear):
    """A projection with a forward of its own."""

    def forward(self, x):
        return super().forward(x).clamp(-MORE, MORE)


class Adds(ModelHook):
    """What accelerate may put around a forward, and that does more than to move."""

    def post_forward(self, _, output):
        return output + MORE


class Other(torch.Tensor):
    """Weights that may do anything when they are used."""


def plain(mlp):
    """The projection, or that which is held by one that can clip."""
    return getattr(mlp.down_proj, "linear", mlp.down_proj)


def bias(mlp):
    plain(mlp).bias = torch.nn.Parameter(torch.full((32,), MORE))


def forward_hook(mlp):
    mlp.down_proj.register_forward_hook(lambda *given: given[2] + MORE)


def hook_on_a_part(mlp):
    plain(mlp).register_forward_hook(lambda *given: given[2] + MORE)


def forward_pre_hook(mlp):
    mlp.down_proj.register_forward_pre_hook(lambda _, given: (given[0] + MORE,))


def backward_hook(mlp):
    mlp.down_proj.register_full_backward_hook(lambda _, given, __: (given[0] + 1,))


def backward_pre_hook(mlp):
    mlp.down_proj.register_full_backward_pre_hook(lambda _, given: (given[0] + 1,))


def subclass(mlp):
    plain(mlp).__class__ = Own


def own_forward(mlp):
    layer = plain(mlp)
    layer.forward = lambda x: torch.nn.functional.linear(x, layer.weight) + MORE


def own_method(mlp):
    layer = plain(mlp)
    layer.forward = types.MethodType(lambda self, x: torch.nn.Linear.forward(self, x) + MORE, layer)


def accelerate_adds(mlp):
    add_hook_to_module(plain(mlp), AlignDevicesHook("cpu"))
    add_hook_to_module(plain(mlp), Adds(), append=True)


def forward_around_accelerate(mlp):
    layer = plain(mlp)
    add_hook_to_module(layer, AlignDevicesHook("cpu"))
    moved = layer.forward
    layer.forward = lambda x: moved(x) + MORE


def around(mlp):
    mlp.down_proj = Around(mlp.down_proj)


def weight_norm(mlp):
    parametrizations.weight_norm(plain(mlp))


def weight_of_another_class(mlp):
    layer = plain(mlp)
    layer.weight = torch.nn.Parameter(layer.weight.data.as_subclass(Other))


UNKNOWN = [
    bias, forward_hook, hook_on_a_part, forward_pre_hook, backward_hook, backward_pre_hook, subclass,
    own_forward, own_method, accelerate_adds, forward_around_accelerate, around, weight_norm,
    weight_of_another_class,
]  # fmt: skip
"""Not known to be linear, and most are not."""


def as_it_is(_):
    pass


def moved(mlp):
    add_hook_to_module(plain(mlp), AlignDevicesHook("cpu"))


def moved_twice(mlp):
    moved(mlp)
    add_hook_to_module(plain(mlp), AlignDevicesHook("cpu", offload=True), append=True)


def moved_no_longer(mlp):
    moved(mlp)
    remove_hook_from_module(plain(mlp))


def weight_as_fsdp_has_it(mlp):
    layer = plain(mlp)
    weight = layer.weight.data
    del layer.weight
    layer.weight = weight


KNOWN = [as_it_is, moved, moved_twice, moved_no_longer, weight_as_fsdp_has_it]
"""Known to be linear."""
