"""Patches for masks that are created from the list of caches, which ignores padding, instead of from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_lm import _tiny

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One family, whose class ``kind`` in ``target`` creates the mask."""

    module: str
    family: str
    target: str
    kind: str
    model: Call
    affects: str
    links: tuple[str, ...]

    def probe(self, module: ModuleType) -> Verdict:
        return verdict(module, self.kind)

    def repair(self, module: ModuleType, changes: Changes) -> None:
        ask_the_first(changes, module)

    def canary(self) -> Figure:
        return figure(self.model())

    def patch(self) -> Patch:
        return Patch(
            module=self.module,
            title=f"{self.family} in mlx-lm attends to the padding of a batch",
            severity="silent wrong result",
            targets=(self.target,),
            affects=(self.affects,),
            links=self.links,
            measures="errors of logits in a padded row: prompt, next step (expected: below 1e-4)",
            probe=self.probe,
            repair=self.repair,
            canary=self.canary,
        )


def verdict(module: ModuleType, kind: str) -> Verdict:
    """Tell whether a class of the module asks the first cache for its mask."""
    owner: Any = getattr(module, kind, None)
    if not (isinstance(owner, type) and hasattr(module, "create_attention_mask")):
        return Verdict.UNKNOWN
    import mlx.core as mx

    asked: list[Any] = []
    cache = SimpleNamespace(make_mask=lambda *some, **_: asked.append(some), offset=0)
    model = SimpleNamespace(args=SimpleNamespace(scale_emb=1.0), layers=[])
    model.embed_tokens = lambda _: mx.zeros((1, 2, 4))
    model.norm = model.transformer = model.lm_head = lambda x, *_: x
    owner.__call__(model, mx.zeros((1, 2), dtype=mx.int32), cache=[cache])
    return Verdict.FIXED if asked else Verdict.AFFECTED


def ask_the_first(changes: Changes, module: ModuleType) -> None:
    """Create the mask from the first cache of the list."""

    def make(original: Call) -> Call:
        def of_first(h: Any, cache: Any = None, *args: Any, **kwargs: Any) -> Any:
            return original(h, cache[0] if isinstance(cache, list) and cache else cache, *args, **kwargs)

        return of_first

    changes.wrap(module, "create_attention_mask", make)


def figure(model: Any) -> Figure:
    """Canary: a row that begins with padding equals its text alone, in the prompt and in the next step."""
    import mlx.core as mx
    from mlx_lm.models.cache import BatchKVCache

    tokens, pad = _tiny.prompt(8), 5
    short = mx.concatenate([mx.zeros((1, pad), dtype=tokens.dtype), tokens[:, :3]], axis=1)
    cache = [BatchKVCache([0, pad]) for _ in model.layers]
    prompt = model(mx.concatenate([tokens, short]), cache=cache)[1:, pad:]
    step = model(mx.concatenate([tokens[:, 3:4]] * 2), cache=cache)[1:]
    alone = model(tokens[:, :4])
    errors = abs(prompt - alone[:, :3]).max().item(), abs(step - alone[:, 3:]).max().item()
    return Figure(f"{errors[0]:.3g}, {errors[1]:.3g}", healthy=max(errors) < _tiny.SMALL)
