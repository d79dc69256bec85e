"""GraniteMoe and DBRX cannot be trained with ``output_router_logits=True``.

Symptom
-------
With labels, ``output_router_logits=True`` raises ``AttributeError: 'int' object has no attribute 'to'``. It
may stand in the config or in the call. Without labels there is no error, but ``router_logits`` is None and
``aux_loss`` is the number 0. This affects GraniteMoe, GraniteMoeShared, GraniteMoeHybrid, GraniteMoeSWA and
DBRX.

Cause
-----
From 5.0.0 on, hooks on the routers record their logits. These models do not declare the router among what can
be recorded. So the loss that balances the experts gets no logits and returns 0, which is no tensor. The
GraniteMoe families also do not pass on what the caller has asked for.

Repair
------
The routers are declared, and the argument reaches the model below the head, as in 5.18.0. A GraniteMoeHybrid
without experts has no router; nothing changes for it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _calls

FLAGS, KEY, ASKED, ASIDE = (
    "_can_record_outputs",
    "router_logits",
    "output_router_logits",
    "zoo_hooks_router_logits",
)
ROUTERS = ("TopKGating", "TopKRouter", "DbrxRouter")


def probe(module: ModuleType) -> Verdict:
    base, body, head = _classes(module)
    if KEY in (flags := getattr(base, FLAGS, None) or {}):
        return Verdict.FIXED
    if ASKED in inspect.signature(body.forward).parameters:
        return Verdict.FIXED  # before 5.0.0 the layers return the logits
    known = flags and ASKED in inspect.signature(head.forward).parameters
    return Verdict.AFFECTED if known and _place(_router(module)) is not None else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    base, body, head = _classes(module)
    router = _router(module)
    recorder = sys.modules["transformers.modeling_utils"].OutputRecorder(router, index=_place(router))
    changes.replace(base, FLAGS, {KEY: recorder, **getattr(base, FLAGS)})
    place = [*inspect.signature(head.forward).parameters].index(ASKED) - 1
    changes.wrap(head, "forward", lambda original: _handing(original, place))
    changes.wrap(body, "forward", _receiving)


def _handing(original: Callable[..., Any], place: int) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = args[place] if len(args) > place else kwargs.get(ASKED)
        if asked is not None:
            kwargs[ASIDE] = asked
        return original(self, *args, **kwargs)

    return forward


def _receiving(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.pop(ASIDE, None)
        if asked is not None:
            kwargs[ASKED] = asked
        output = original(self, *args, **kwargs)
        if getattr(output, KEY, None) == ():
            output.router_logits = None
        return output

    return forward


def _classes(module: ModuleType) -> tuple[Any, Any, Any]:
    name = next(name for name in vars(module) if name.endswith("ForCausalLM"))
    stem = name.removesuffix("ForCausalLM")
    return tuple(getattr(module, stem + end) for end in ("PreTrainedModel", "Model", "ForCausalLM"))


def _router(module: ModuleType) -> Any:
    return next((kind for name, kind in vars(module).items() if name.endswith(ROUTERS)), None)


def _place(router: Any) -> int | None:
    """Find the logits of 4 tokens for 3 experts in what a router returns."""
    import torch

    shape = {"hidden_size": 2, "num_local_experts": 3, "num_experts_per_tok": 1}
    more = {"ffn_hidden_size": 2, "moe_num_experts": 3, "moe_jitter_eps": None}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        single = "config" in inspect.signature(router).parameters
        made = router(SimpleNamespace(**shape, **more)) if single else router(*shape.values())
        with _calls.in_place_of_torchs(softmax=lambda logits, *_, **__: logits):
            output = made(torch.zeros(4, 2))
    outputs = output if isinstance(output, tuple) else (output,)
    places = [at for at, one in enumerate(outputs) if getattr(one, "shape", None) == (4, 3)]
    return places[0] if len(places) == 1 else None


def canary() -> Figure:
    """Train a GraniteMoe for a step; its balancing loss is also computed from what its routers return."""
    import torch
    from transformers import GraniteMoeConfig, GraniteMoeForCausalLM

    from zoo_hooks.patches.transformers import _tiny

    shape = {key: value for key, value in _tiny.TEXT.items() if key not in {"head_dim", "sliding_window"}}
    config = GraniteMoeConfig(**shape, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2)
    model = _tiny._seeded(GraniteMoeForCausalLM, config)  # noqa: SLF001
    ids = _tiny.prompt()
    seen: list[Any] = []
    for layer in model.model.layers:
        layer.block_sparse_moe.router.register_forward_hook(lambda *call: seen.extend(call[2]))
    loss = model(input_ids=ids, labels=ids, output_router_logits=True).loss
    logits = tuple(
        one for one in seen if getattr(one, "shape", None) == (ids.numel(), 4) and one.is_floating_point()
    )
    extra = sys.modules[type(model).__module__].load_balancing_loss_func(logits, 4, 2)
    right = model(input_ids=ids, labels=ids).loss + config.router_aux_loss_coef * extra
    error = float(torch.abs(loss - right) / right)
    return Figure(round(error, 5), healthy=error < 1e-5)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="GraniteMoe and DBRX raise an error with output_router_logits=True",
    severity="crash",
    symptoms=(
        "'int' object has no attribute 'to' @ transformers.models.granitemoe",
        "'int' object has no attribute 'to' @ transformers.models.dbrx",
    ),
    targets=(
        "transformers.models.dbrx.modeling_dbrx",
        "transformers.models.granitemoe.modeling_granitemoe",
        "transformers.models.granitemoe_swa.modeling_granitemoe_swa",
        "transformers.models.granitemoehybrid.modeling_granitemoehybrid",
        "transformers.models.granitemoeshared.modeling_granitemoeshared",
    ),
    affects=("transformers>=5.0.0,<5.18.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.17.0/src/transformers/models/granitemoe/modeling_granitemoe.py",
    ),
    measures="relative error of the loss with the loss that balances the experts (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
