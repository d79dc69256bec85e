"""Generation with a shadow adapter is wrong with transformers 5.24 and later.

Symptom
-------
``generate`` of a model with ``ShadowConfig`` gives other tokens with a KV cache than without one, and no
error is raised. On a tiny Llama, 7 of 10 tokens differ.

Cause
-----
With such an adapter, the cache holds two caches: one of the base model and one of the shadow. A hook of
peft separates them before the forward pass of the base model, and looks for them as ``past_key_values``.
From 5.24.0 on, transformers passes ``cache``. The shadow therefore gets no cache, and treats each token as
the first.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The hook finds the cache under the old name, and the base model gets its own cache under the new one. Models
that got their adapter before zoo-hooks was activated are not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _tiny
from zoo_hooks.patches.peft import _renamed

OLD, NEW = _renamed.OLD, _renamed.NEW
SEED = "_seed_shadow_pre_hook"
STEPS = 8


def probe(module: ModuleType) -> Verdict:
    both, name = module.ShadowCache(base=None, shadow=None), _renamed.cache_name()
    if name is None:
        return Verdict.UNKNOWN
    model = SimpleNamespace(
        _unpack_past_key_values=module.ShadowModel._unpack_past_key_values,  # noqa: SLF001
        _shadow_path_active=lambda: False,
    )
    _, given = getattr(module.ShadowModel, SEED)(model, None, (), {name: both})
    if given == {name: None}:
        return Verdict.FIXED
    return Verdict.AFFECTED if given == {name: both} else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def seed(self: Any, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            if NEW not in kwargs or OLD in kwargs:
                return original(self, module, args, kwargs)
            args, kwargs = original(self, module, args, _with(kwargs, NEW, OLD))
            return args, _with(kwargs, OLD, NEW)

        return seed

    changes.wrap(module.ShadowModel, SEED, make)


def _with(kwargs: dict[str, Any], name: str, other: str) -> dict[str, Any]:
    return {other if key == name else key: value for key, value in kwargs.items()}


def canary() -> Figure:
    import torch
    from peft import ShadowConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = ShadowConfig(task_type="CAUSAL_LM", init_weights=False)
        model = get_peft_model(_tiny.llama(initializer_range=0.5), config).eval()
        for name, weight in model.named_parameters():
            if "shadow" in name:
                torch.nn.init.normal_(weight)
        text = torch.tensor([[1, 2, 3, 4]])
        with_cache, without = (
            model.generate(
                input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=STEPS, do_sample=False,
                pad_token_id=0, eos_token_id=None, use_cache=use_cache,
            )
            for use_cache in (True, False)
        )  # fmt: skip
    wrong = int((with_cache != without).sum())
    return Figure(wrong, healthy=wrong == 0)


PATCH = Patch(
    module=__name__,
    title="Generation with a shadow adapter gives wrong tokens",
    severity="silent wrong result",
    targets=("peft.tuners.shadow.model",),
    affects=("peft>=0.21.0", "transformers>=5.24.0"),
    links=("https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/shadow/model.py#L569",),
    measures=f"tokens that differ from generation without a cache, of {STEPS} (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
