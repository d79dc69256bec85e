"""Ernie 4.5 VL cannot see its images after bitsandbytes has packed it to 4 or 8 bits.

Symptom
-------
Packed by bitsandbytes, Ernie 4.5 VL answers as if all pixels were nearly alike. There is no error. The
patch embeddings are some 500 times too large at 4 bits, and almost zero at 8 bits.

Cause
-----
``Ernie4_5_VLMoePatchEmbed.forward`` casts the pixels to ``proj.weight.dtype``. A packed weight has the
dtype uint8 or int8. The weight is stored in this dtype, but the layer does not compute in it.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
If the weight is packed, the pixels are cast to the dtype that the weight had before packing, as in a model
that is not packed. Any other model runs upstream's own forward.
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
    title="Ernie 4.5 VL packed to 4 or 8 bits casts its pixels to integers",
    severity="silent wrong result",
    targets=("transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe",),
    affects=("transformers>=5.0.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/ernie4_5_vl_moe/modeling_ernie4_5_vl_moe.py#L831",
        "https://github.com/huggingface/transformers/pull/46933",
    ),
    measures="relative error of the patch embeddings after packing to 4 bits (expected: < 0.4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
