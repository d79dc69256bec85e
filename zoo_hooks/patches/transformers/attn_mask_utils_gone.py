"""``transformers.modeling_attn_mask_utils`` is gone, and with it whatever imports it.

Symptom
-------
``import FlagEmbedding`` raises ``ModuleNotFoundError: No module named
'transformers.modeling_attn_mask_utils'``, and so does code that comes with checkpoints.

Cause
-----
5.24.0 dropped the module, whose functions warned of that, in favour of ``transformers.masking_utils``, which
has other functions.

Repair
------
Once any config or model has been imported the module is there again, with functions that give the same masks.
It is no stand-in, so it is there for as long as the repair is in force, for importers that nobody knows. It
does not warn. Other importers that were looked at (llm2vec, torchao's prototypes, optimum-intel) fail for
other names or want an older transformers.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

_NAME = "transformers.modeling_attn_mask_utils"


def probe(module: ModuleType) -> Verdict:  # noqa: ARG001 - it is another that is asked for
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
    title="transformers.modeling_attn_mask_utils is gone, and with it whatever imports it",
    severity="crash",
    symptoms=("No module named 'transformers.modeling_attn_mask_utils'",),
    targets=("transformers.cache_utils",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_attn_mask_utils.py",
    ),
    measures="wrong entries of a mask for padded rows (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
