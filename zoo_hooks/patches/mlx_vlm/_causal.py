"""Patches for padding masks that the layers of a text model would use as their attention mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _padding, _tiny

Call = Callable[..., Any]
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
"""What the configs of the families have in common."""
MEASURES = (
    "change of earlier logits when the last token changes; errors of one text, of two rows "
    "(expected: 0, below 1e-4)"
)
VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "patch_size": 14}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One family, whose text model is the class ``backbone`` in ``target``."""

    module: str
    family: str
    target: str
    backbone: str
    model: Call
    affects: str
    pulls: tuple[int, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    examine: Call | None = None
    keep: Call | None = None

    def probe(self, module: ModuleType) -> Verdict:
        return (self.examine or verdict)(module, self.backbone, **self.given)

    def repair(self, module: ModuleType, changes: Changes) -> None:
        (self.keep or keep_causal)(changes, module, self.backbone)

    def canary(self) -> Figure:
        return figure(self.model())

    def patch(self) -> Patch:
        upstream = "https://github.com/Blaizzy/mlx-vlm"
        return Patch(
            module=self.module,
            title=f"{self.family} in mlx-vlm: the padding mask replaces the causal attention mask",
            severity="silent wrong result",
            symptoms=(f"[broadcast_shapes] @ {self.target}",),
            targets=(self.target,),
            affects=(self.affects,),
            links=(
                f"{upstream}/blob/v0.7.10/{self.target.replace('.', '/')}.py",
                *(f"{upstream}/pull/{number}" for number in self.pulls),
                "https://github.com/unslothai/unsloth-zoo/pull/963",
            ),
            measures=MEASURES,
            probe=self.probe,
            repair=self.repair,
            canary=self.canary,
        )


class Same(SimpleNamespace):
    """Stands in for a module, and returns its input."""

    def __call__(self, x: Any, *_: Any) -> Any:
        return x


def verdict(module: ModuleType, backbone: str, **given: Any) -> Verdict:
    """Tell whether the loop over the layers passes a mask of [batch, length] on to them.

    ``given`` contains the arguments that the loop needs besides tokens, their embeddings and the mask.
    """
    kind: Any = getattr(module, backbone, None)
    if not isinstance(kind, type):
        return Verdict.UNKNOWN
    if "mask" not in inspect.signature(kind.__call__).parameters:
        return Verdict.FIXED
    import mlx.core as mx

    seen: list[Any] = []
    hidden = mx.zeros((2, 3, 4))

    def layer(x: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["mask"] if "mask" in kwargs else args[0])
        return x

    part = Same(weight=hidden)
    model = SimpleNamespace(layers=[layer], blocks=[layer], num_layers=1, start_idx=0)
    model.norm = model.ln_f = model.lm_head = model.emb_drop = model.rotary_emb = part
    model.config = SimpleNamespace(cross_attention_layers=())
    tokens, mask = mx.zeros((2, 3), dtype=mx.int32), mx.ones((2, 3), dtype=mx.int32)
    kind.__call__(model, tokens, inputs_embeds=hidden, mask=mask, **given)
    if len(seen) != 1:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if getattr(seen[0], "ndim", 0) == mask.ndim else Verdict.FIXED


def keep_causal(changes: Changes, module: ModuleType, backbone: str) -> None:
    """Combine a mask of [batch, length] with the causal mask, in a forward pass with an empty cache."""

    def make(original: Call) -> Call:
        names = [*inspect.signature(original).parameters][1:]
        position = names.index("mask")

        def causal(self: Any, *args: Any, **kwargs: Any) -> Any:
            mask: Any = args[position] if len(args) > position else kwargs.get("mask")
            if getattr(mask, "ndim", 0) != 2:  # noqa: PLR2004 - also None, and the word "causal"
                return original(self, *args, **kwargs)
            given = dict(zip(names, args, strict=False)) | kwargs
            of: Any = given[names[0]] if given.get("inputs_embeds") is None else given["inputs_embeds"]
            if of.shape[:2] == mask.shape and is_empty(given.get("cache")):
                given["mask"] = _padding.without_padding("causal", mask, mask.shape[1])
            return original(self, **given)

        return causal

    changes.wrap(getattr(module, backbone), "__call__", make)


def is_empty(cache: Any) -> bool:
    if cache is None or cache[0] is None:
        return True
    offset = getattr(cache[0], "offset", None)
    return isinstance(offset, int) and offset == 0


def figure(model: Any) -> Figure:
    """Canary: the last token changes no earlier logit, and each row of a batch equals its text alone."""
    import mlx.core as mx

    tokens, ones = _tiny.prompt(12, batch=2), mx.ones((1, 12), dtype=mx.int32)
    other = mx.concatenate([tokens[:1, :-1], tokens[:1, -1:] + 1], axis=1)
    right, first = model(tokens[:1], None, None).logits, model(tokens[:1], None, ones).logits
    moved = abs(first - model(other, None, ones).logits)[:, :-1].max().item()
    wrong = abs(first - right).max().item()
    padded = mx.concatenate([ones, mx.arange(12)[None] < 8])  # noqa: PLR2004
    batch = model(tokens, None, padded).logits
    alone = max(
        abs(batch[:1] - right).max().item(),
        abs(batch[1:, :8] - model(tokens[1:, :8], None, None).logits).max().item(),
    )
    healthy = moved == 0 and max(wrong, alone) < _tiny.SMALL
    return Figure(f"{moved:.3g}, {wrong:.3g}, {alone:.3g}", healthy=healthy)
