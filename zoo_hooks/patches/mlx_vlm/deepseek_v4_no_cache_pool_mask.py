"""DeepSeek-V4 in mlx-vlm attends to compressed keys of later tokens if there is no KV cache.

Symptom
-------
Training DeepSeek-V4 is not causal: each token attends to the tokens that it should predict. No error is
raised. This happens in each forward pass without a KV cache, as in mlx-vlm's trainers, from the first
compressed block of 4 or 128 tokens on. In the canary's random model, changing the last token moves earlier
logits by 1.4, and logits differ from those with a cache by 1.2.

Cause
-----
Most layers also attend to compressed keys, one for each 4 or 128 tokens. ``PoolingCache`` creates
the mask that hides those that are not complete yet. Without a cache nothing creates it, and all compressed
keys are visible to all tokens.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
Without a cache, the layer gets an object for this one call that creates the same mask and stores nothing
between calls. So gradients and ``grad_checkpoint`` work as before. Forward passes with a cache are not
changed.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _tiny

_OWNERS = ("CompressedAttention", "SparseCompressedAttention")


class _Blocks:
    """Stands in for the cache of compressed keys, in one call of a layer."""

    def __init__(self, ratio: int) -> None:
        self._ratio = ratio
        self._count = 0

    def accumulate_windows(self, kv: Any, gate: Any, offset: Any) -> tuple[Any, Any, Any]:
        usable = kv.shape[1] // self._ratio * self._ratio
        return kv[:, :usable], gate[:, :usable], offset

    def update_and_fetch(self, pooled: Any) -> Any:
        self._count = pooled.shape[1]
        return pooled

    def make_mask(self, length: int, offset: Any = 0) -> Any:
        import mlx.core as mx

        ends = mx.arange(1, length + 1)[:, None] + offset
        return mx.arange(self._count) < ends // self._ratio


class _Same(SimpleNamespace):
    """Stands in for a module, and returns its input, or what it got as ``gives``."""

    def __call__(self, x: Any, *args: Any, **_: Any) -> Any:
        if "gives" not in vars(self):
            return x
        return args[0].update_and_fetch(self.gives) if args[0] is not None else self.gives


def probe(module: ModuleType) -> Verdict:
    owners = [getattr(module, name, None) for name in _OWNERS]
    if not all(isinstance(owner, type) for owner in owners):
        return Verdict.UNKNOWN
    import mlx.core as mx

    part: Any = _Same()
    self = SimpleNamespace(
        **dict.fromkeys(("wq_a", "q_norm", "wq_b", "wkv", "kv_norm", "wo_a", "wo_b"), part)
    )
    self.rope, self.indexer = part, _Same(index_topk=8)
    self.compressor = _Same(gives=mx.zeros((1, 2, 4)))
    self.config = SimpleNamespace(rms_norm_eps=1e-6)
    self.n_heads = self.o_groups = self.scale = 1
    self.head_dim = self.compress_ratio = 4
    self.attn_sink, self.sharding_group = mx.zeros((1,)), None
    x, mask = mx.zeros((1, 8, 4)), mx.array([[key <= query for key in range(8)] for query in range(8)])
    for owner in owners:
        given = {"q": x[:, None], "kv": x[:, None], "q_residual": x, "offset": 0}
        method = _method(owner)
        given = given if method == "_attend" else {}
        out = getattr(owner, method)(self, x, mask=mask, cache=None, **given)
        if not _compares(out):
            return Verdict.AFFECTED
    return Verdict.FIXED


def _compares(array: Any) -> bool:
    """Tell whether positions are compared, as for a causal mask. To see values would start MLX's thread."""
    import mlx.core as mx

    graph = io.StringIO()
    mx.export_to_dot(graph, array)
    return re.search("Less|Greater", graph.getvalue()) is not None


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        names = [*inspect.signature(original).parameters][1:]
        position = names.index("cache")

        def masked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if (args[position] if len(args) > position else kwargs.get("cache")) is not None:
                return original(self, *args, **kwargs)
            given = dict(zip(names, args, strict=False)) | kwargs
            given["cache"] = (None, _Blocks(self.compress_ratio), _Blocks(self.compress_ratio))
            return original(self, **given)

        return masked

    for owner in (getattr(module, name) for name in _OWNERS):
        changes.wrap(owner, _method(owner), make)


def _method(owner: Any) -> str:
    return "_attend" if hasattr(owner, "_attend") else "__call__"


def canary() -> Figure:
    import mlx.core as mx

    model, tokens = _model(), _tiny.prompt(24)
    other = mx.concatenate([tokens[:, :-1], tokens[:, -1:] + 1], axis=1)
    right, found = model(tokens, cache=model.make_cache()).logits, model(tokens).logits
    moved = abs(found - model(other).logits)[:, :-1].max().item()
    wrong = abs(found - right).max().item()
    return Figure(f"{moved:.3g}, {wrong:.3g}", healthy=moved == 0 and wrong < _tiny.SMALL)


def _model() -> Any:
    from mlx_vlm.models import deepseek_v4 as family

    config = family.ModelConfig(
        vocab_size=96,
        hidden_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        q_lora_rank=16,
        qk_rope_head_dim=4,
        head_dim=8,
        compress_ratios=[0, 4, 4],
        hc_mult=2,
        num_hash_layers=0,
        sliding_window=8,
        o_groups=2,
        o_lora_rank=8,
        index_n_heads=2,
        index_head_dim=8,
        index_topk=2,
    )
    return _tiny.filled(family.Model(config))


PATCH = Patch(
    module=__name__,
    title="DeepSeek-V4 in mlx-vlm attends to compressed keys of later tokens without a KV cache",
    severity="silent wrong result",
    targets=("mlx_vlm.models.deepseek_v4.language",),
    affects=("mlx-vlm>=0.6.0",),
    links=("https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/deepseek_v4/language.py",),
    measures=(
        "change of earlier logits when the last token changes; error of logits without a cache "
        "(expected: 0, below 1e-4)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
)
