"""Ernie 4.5 VL packed to 4 or 8 bits does not see its images.

Symptom
-------
An Ernie 4.5 VL that is packed by bitsandbytes answers as if all pixels were nearly alike: no error. Packed
to 4 bits its embedded patches are some 500 times too large, to 8 bits all but zero.

Cause
-----
``Ernie4_5_VLMoePatchEmbed.forward`` casts the pixels to ``proj.weight.dtype``. That of a packed weight is
uint8 or int8, which is how it is stored and not what it computes in.

Repair
------
If the weight is packed, the pixels are cast to the dtype that it had before, as they are where it is not.
Any other model runs upstream's own forward.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _packed_cast, _tiny


def probe(module: ModuleType) -> Verdict:
    return _packed_cast.verdict(_kind(module), "proj", _packed_cast.values())


def repair(module: ModuleType, changes: Changes) -> None:
    _packed_cast.uncast(changes, _kind(module), "proj")


def canary() -> Figure:
    import torch
    from transformers.models.ernie4_5_vl_moe import modeling_ernie4_5_vl_moe as models

    kind = _kind(models)
    model = _tiny._seeded(lambda size: kind(size, 3, 64), 8)  # noqa: SLF001 - its neighbour
    patches = torch.linspace(-1, 1, 8 * 192).reshape(8, 192)
    return _packed_cast.error(model, "proj", lambda one: one(patches))


def _kind(module: ModuleType) -> Any:
    """The class, which had another name before 5.3.0."""
    return getattr(module, "Ernie4_5_VLMoePatchEmbed", None) or module.Ernie4_5_VL_MoePatchEmbed


PATCH = Patch(
    module=__name__,
    title="Ernie 4.5 VL packed to 4 or 8 bits casts pixels to whole numbers",
    severity="silent wrong result",
    targets=("transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe",),
    affects=("transformers>=5.0.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/ernie4_5_vl_moe/modeling_ernie4_5_vl_moe.py#L831",
        "https://github.com/huggingface/transformers/pull/46933",
    ),
    measures="relative error that packing brings to embedded patches (expected: < 0.4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
