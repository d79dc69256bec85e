"""Generation with prompt tuning, prefix tuning and similar methods is wrong with transformers 5.24 and later.

Symptom
-------
``generate`` gives other tokens than the forward pass, and no error is raised: 4 to 12 of 12 tokens differ
on tiny Llama and Qwen2 models. This concerns prompt tuning, p-tuning, multitask prompt tuning, CPT, prefix
tuning and cartridges. With encoder-decoder models, a prefix has no effect on the generated text.

Cause
-----
The base model prepares the inputs of the next step, and peft looks in them for ``past_key_values``. From
5.24.0 on, transformers passes the KV cache as ``cache``. peft therefore treats each step as the first. It
inserts the prompt again, or adds its prefix as a second cache, which the model ignores.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
While ``prepare_inputs_for_generation`` of peft's classes for causal and encoder-decoder models runs, the
prepared inputs hold the cache under the old name. Afterwards they hold it under the new name again.
zoo-hooks leaves alone a base model that uses the old name itself, as code from the Hub may do.
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
KINDS = ("PeftModelForCausalLM", "PeftModelForSeq2SeqLM")
PREPARE = "prepare_inputs_for_generation"
STEPS = 8


def probe(module: ModuleType) -> Verdict:
    kinds, name = [getattr(module, kind) for kind in KINDS], _renamed.cache_name()
    if name is None:
        return Verdict.UNKNOWN
    verdicts = {_verdict(kind, name) for kind in kinds}
    worst = (Verdict.UNKNOWN, Verdict.AFFECTED, Verdict.FIXED)
    return next(verdict for verdict in worst if verdict in verdicts)


def _verdict(kind: Any, name: str) -> Verdict:
    """What a class of peft makes of a cache by that name: one that is empty, and one that is filled."""
    from transformers import DynamicCache

    # Up to 0.17.1 peft asks for its length, which a cache without layers cannot tell.
    empty = type("Empty", (DynamicCache,), {"max_cache_len": None})()
    filled = SimpleNamespace(get_seq_length=lambda: 2)
    first, later = _prepared(kind, name, empty, first=True), _prepared(kind, name, filled, first=False)
    others = {OLD, NEW} - {name}
    if others & {*first, *later}:
        return Verdict.AFFECTED
    return Verdict.FIXED if name in first and later.get(name) is filled else Verdict.UNKNOWN


def _prepared(kind: Any, name: str, cache: Any, *, first: bool) -> dict[str, Any]:
    ids = SimpleNamespace(shape=(1, 3))
    model = SimpleNamespace(
        active_peft_config=SimpleNamespace(
            peft_type="PREFIX_TUNING", is_prompt_learning=True, num_virtual_tokens=1
        ),
        base_model_prepare_inputs_for_generation=lambda **_: {
            name: cache, "input_ids": ids, "decoder_input_ids": ids
        },
        get_prompt=lambda *_, **__: "prompt",
        _adjust_prompt_learning_kwargs=lambda *_, **__: None,
    )  # fmt: skip
    prepared: dict[str, Any] = getattr(kind, PREPARE)(model, is_first_iteration=first)
    return prepared


def repair(module: ModuleType, changes: Changes) -> None:
    for kind in (getattr(module, name) for name in KINDS):
        if _verdict(kind, NEW) is Verdict.AFFECTED:
            changes.wrap(kind, PREPARE, _by_old_name)


class _Model:
    """A model of peft, as its own function is to see it: what its base model prepares has the old name."""

    __slots__ = ("model", "renamed")

    def __init__(self, model: Any) -> None:
        self.model, self.renamed = model, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def base_model_prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        prepared = self.model.base_model_prepare_inputs_for_generation(*args, **kwargs)
        if NEW in prepared and OLD not in prepared:
            self.renamed = True
            prepared[OLD] = prepared.pop(NEW)
        return prepared


def _by_old_name(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_inputs_for_generation(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = _Model(self)
        prepared = original(model, *args, **kwargs)
        if model.renamed and OLD in prepared:
            prepared[NEW] = prepared.pop(OLD)
        return prepared

    return prepare_inputs_for_generation


def canary() -> Figure:
    import torch
    from peft import PromptTuningConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        model = get_peft_model(_tiny.llama(num_hidden_layers=2, initializer_range=1.0), config).eval()
        torch.manual_seed(0)
        torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight)
        text = torch.tensor([[1, 2, 3, 4]])
        seen = model.generate(
            input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=STEPS, do_sample=False,
            pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        for _ in range(STEPS):
            token = model(text, attention_mask=torch.ones_like(text)).logits[:, -1:].argmax(-1)
            text = torch.cat([text, token], dim=1)
    wrong = int((seen != text).sum())
    return Figure(wrong, healthy=wrong == 0)


PATCH = Patch(
    module=__name__,
    title="Generation with prompt tuning, prefix tuning and similar methods gives wrong tokens",
    severity="silent wrong result",
    targets=("peft.peft_model",),
    affects=("peft>=0.15.0", "transformers>=5.24.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py#L2277",
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/generation/utils.py#L706",
    ),
    measures=f"tokens that differ from the forward pass, of {STEPS} generated with a prompt (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
