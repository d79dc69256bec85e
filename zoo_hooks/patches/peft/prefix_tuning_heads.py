"""Prefix tuning for classification and question answering raises with transformers 5.24 and later.

Symptom
-------
The forward pass of prefix tuning, or of a cartridge, with the ``task_type`` ``SEQ_CLS``, ``TOKEN_CLS`` or
``QUESTION_ANS`` raises
``ValueError: Model does not support past key values which are required for prefix tuning.``

Cause
-----
peft looks for ``past_key_values`` in the signature of the base model, and then in the signature of its
backbone. From 5.24.0 on, transformers names the parameter ``cache``. It still accepts the old name as an
argument, but the signature no longer shows it.

Repair
------
Inside ``peft.peft_model`` only, a signature that has ``cache`` also shows ``past_key_values``. peft then
passes the prefix under the old name, as its forward pass for generation does. transformers warns about the
old name in both cases.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _tiny
from zoo_hooks.patches.peft import _renamed

OLD, NEW = _renamed.OLD, _renamed.NEW
PEFT_MODEL = "peft.peft_model"
KINDS = (
    "PeftModelForSequenceClassification",
    "PeftModelForTokenClassification",
    "PeftModelForQuestionAnswering",
)
ROUNDING = 1e-5


def probe(module: ModuleType) -> Verdict:
    if not _prefixes_are_made():
        return Verdict.FIXED
    name = _renamed.cache_name()
    verdicts = {_verdict(getattr(module, kind), name) for kind in KINDS}
    worst = (Verdict.UNKNOWN, Verdict.AFFECTED, Verdict.FIXED)
    return next(verdict for verdict in worst if verdict in verdicts)


def _prefixes_are_made() -> bool:
    """Tell whether peft gets that far: up to 0.17.1 it asks for a method that transformers 5 has removed."""
    method, get_prompt = "from_legacy_cache", sys.modules[PEFT_MODEL].PeftModel.get_prompt

    from transformers import DynamicCache

    names = inspect.unwrap(get_prompt).__code__.co_names
    return method not in names or "__version__" in names or hasattr(DynamicCache, method)


class _Reached(Exception):
    """Raised where the probe has seen enough."""


class _Taking:
    """Stands in for a model whose forward takes a cache by that name."""

    def __init__(self, name: str | None, called: list[Any]) -> None:
        # Only the names of the parameters are asked.
        forwards: dict[str | None, Any] = {OLD: lambda past_key_values: None, NEW: lambda cache: None}  # noqa: ARG005
        self.forward, self.called = forwards.get(name), called

    def __call__(self, **_: Any) -> None:
        self.called.append(self)
        raise _Reached


def _verdict(kind: Any, name: str | None) -> Verdict:
    called: list[Any] = []
    base, backbone = _Taking(name, called), _Taking(OLD, called)
    base_model = SimpleNamespace(
        base_model=base, get_prompt=lambda *_, **__: "prefix", transformer_backbone_name="backbone"
    )
    vars(base)["get_submodule"] = lambda _: backbone
    with suppress(_Reached):
        kind._prefix_tuning_forward(base_model, input_ids=SimpleNamespace(shape=(1, 3)))  # noqa: SLF001
    return {(base,): Verdict.FIXED, (backbone,): Verdict.AFFECTED}.get(tuple(called), Verdict.UNKNOWN)


def repair(module: ModuleType, changes: Changes) -> None:
    stand_in = ModuleType(inspect.__name__)
    vars(stand_in).update(vars(inspect))
    vars(stand_in)["signature"] = _signature
    changes.replace(module, "inspect", stand_in)


def _signature(function: Callable[..., Any], **kwargs: Any) -> inspect.Signature:
    """The signature of a function; one that takes a cache takes it by its old name too."""
    given = inspect.signature(function, **kwargs)
    if NEW not in given.parameters or OLD in given.parameters:
        return given
    renamed = given.parameters[NEW].replace(name=OLD, kind=inspect.Parameter.KEYWORD_ONLY)
    return given.replace(parameters=sorted([*given.parameters.values(), renamed], key=lambda one: one.kind))


def canary() -> Figure:
    import torch
    from peft import PrefixTuningConfig, get_peft_model

    if not _prefixes_are_made():
        return Figure("this peft can make no prefix with this transformers", healthy=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = get_peft_model(
            _tiny.llama("LlamaForTokenClassification"),
            PrefixTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=2),
        ).eval()
        text = torch.tensor([[1, 2, 3, 4]])
        seen = model(text, attention_mask=torch.ones_like(text)).logits
        given = {"attention_mask": torch.ones(1, 6), str(_renamed.cache_name()): model.get_prompt(1)}
        expected = model.get_base_model()(text, **given).logits
        gap = float((seen - expected).abs().max())
    return Figure(gap, healthy=gap < ROUNDING)


PATCH = Patch(
    module=__name__,
    title="Prefix tuning for classification and question answering raises ValueError",
    severity="crash",
    symptoms=("Model does not support past key values which are required for prefix tuning",),
    targets=(PEFT_MODEL,),
    affects=("peft>=0.18.0", "transformers>=5.24.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py#L1992",
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/modeling_layers.py#L143",
    ),
    measures="largest difference in logits between a prefix and its K/V passed as a cache (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
