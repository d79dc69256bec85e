"""trl's reward trainer fails on chats with transformers 5.

Symptom
-------
The first step of ``RewardTrainer`` on chats raises ``RuntimeError: Could not infer dtype of dict``.

Cause
-----
The trainer uses the result of ``apply_chat_template`` as the token ids of a chat. From transformers 5.0.0
on, the result is a dictionary.

Repair
------
While the trainer prepares its data, ``apply_chat_template`` returns a list of token ids again. trl 0.25
reads the token ids from the dictionary.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.trl import _chats


def probe(module: ModuleType) -> Verdict:
    return _chats.probe(module.RewardTrainer)


def repair(module: ModuleType, changes: Changes) -> None:
    _chats.repair(module.RewardTrainer, changes)


def canary() -> Figure:
    from zoo_hooks.patches.trl import _tiny, availability_flags

    with _tiny.mended(availability_flags.PATCH):
        rows = {"chosen": _chats.ANSWERS, "rejected": _chats.OTHERS}
        batch = _tiny.batch("Reward", rows, _tiny.model("LlamaForSequenceClassification", num_labels=1))
    ids = next(batch[name] for name in ("input_ids", "input_ids_chosen") if name in batch)
    tokens = int(ids.ne(0).sum())
    return Figure(tokens, healthy=tokens == (10 if "input_ids" in batch else 6))


PATCH = Patch(
    module=__name__,
    title="trl's reward trainer fails on chats",
    severity="crash",
    symptoms=("Could not infer dtype of dict @ trl.trainer.reward_trainer",),
    targets=("trl.trainer.reward_trainer",),
    affects=("trl>=0.24.0,<0.25.0", "transformers>=5.0.0"),
    links=(
        "https://github.com/huggingface/trl/issues/4447",
        "https://github.com/huggingface/trl/pull/4448",
    ),
    measures="tokens in a batch of two pairs of chats (expected: 10)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
