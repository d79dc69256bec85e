"""Code that imports ``transformers.modeling_attn_mask_utils`` fails, because 5.24.0 removed the module.

Symptom
-------
``import FlagEmbedding`` raises ``ModuleNotFoundError: No module named
'transformers.modeling_attn_mask_utils'``. Remote code that comes with checkpoints raises it as well.

Cause
-----
transformers 5.24.0 removed the module in favour of ``transformers.masking_utils``, which has other
functions. The functions of the old module had announced the removal in a warning.

Repair
------
zoo-hooks provides the module again as soon as any config or model of transformers has been imported. Its
functions return the same masks as before. They do not emit the deprecation warning. The module is a working
replacement and not an empty stub. It therefore stays importable for as long as the repair is active, also
for importers that zoo-hooks does not know. Other importers were examined (llm2vec, torchao's prototypes,
optimum-intel). They fail because of other names, or require an older transformers.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

_NAME = "transformers.modeling_attn_mask_utils"


def probe(module: ModuleType) -> Verdict:
    if not hasattr(module, "Cache"):
        return Verdict.UNKNOWN  # another package of this name
    return Verdict.FIXED if find_spec(_NAME) else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:  # noqa: ARG001
    from zoo_hooks.patches.transformers import _attn_mask_utils

    changes.provide(_NAME, _attn_mask_utils)


def canary() -> Figure:
    import torch
    from transformers.cache_utils import Cache  # noqa: F401 - as importers do first
    from transformers.modeling_attn_mask_utils import _prepare_4d_causal_attention_mask

    padding = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    mask = _prepare_4d_causal_attention_mask(padding, (2, 5), torch.zeros(2, 5, 1), 0)
    seen = torch.ones(5, 5).tril().bool() & padding[:, None, None].bool()
    wrong = int(((mask == 0) != seen).sum())
    return Figure(wrong, healthy=wrong == 0)


PATCH = Patch(
    module=__name__,
    title="transformers 5.24.0 removed modeling_attn_mask_utils, which other packages import",
    severity="crash",
    symptoms=("No module named 'transformers.modeling_attn_mask_utils'",),
    targets=("transformers.cache_utils",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_attn_mask_utils.py",
    ),
    measures="wrong entries of a causal attention mask for padded rows (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
