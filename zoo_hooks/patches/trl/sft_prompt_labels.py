"""trl's SFT trainer also trains on the prompts of prompt-completion chats with transformers 5.

Symptom
-------
For chats in the columns ``prompt`` and ``completion``, ``SFTTrainer`` masks only the first two tokens of
each row. It trains on the rest of the prompt, and raises no error. The only sign is the warning
``Mismatch between tokenized prompt and the start of tokenized prompt+completion``, once per row. trl 0.19
raises ``Could not infer dtype of dict`` instead.

Cause
-----
The trainer masks as many tokens as ``apply_chat_template`` returns for the prompt. From transformers 5.0.0
on, the result is a dictionary, and its length is 2.

Repair
------
While the trainer prepares its data, ``apply_chat_template`` returns a list of token ids again, unless the
trainer asks for a dictionary. trl 0.27.1 asks for one.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.trl import _chats


def probe(module: ModuleType) -> Verdict:
    return _chats.probe(module.SFTTrainer)


def repair(module: ModuleType, changes: Changes) -> None:
    _chats.repair(module.SFTTrainer, changes)


def canary() -> Figure:
    import trl

    from zoo_hooks.patches.trl import _tiny, availability_flags

    with _tiny.mended(availability_flags.PATCH):
        if not hasattr(trl.SFTConfig, "completion_only_loss"):
            return Figure("this trl trains on prompts", healthy=True)
        batch = _tiny.batch("SFT", {"prompt": _chats.TALK, "completion": _chats.ANSWERS}, _tiny.model())
    learnt = batch["labels"][0].ne(-100)
    prompt = int(learnt[:5].sum())
    return Figure(prompt, healthy=not prompt and int(learnt.sum()) == 3)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="trl's SFT trainer also trains on the prompts of prompt-completion chats",
    severity="silent wrong result",
    symptoms=(
        "Mismatch between tokenized prompt and the start of tokenized prompt+completion",
        "Could not infer dtype of dict @ trl.trainer.sft_trainer",
    ),
    targets=("trl.trainer.sft_trainer",),
    affects=("trl>=0.19.0,<0.27.1", "transformers>=5.0.0"),
    links=(
        "https://github.com/huggingface/trl/pull/4880",
        "https://github.com/huggingface/transformers/pull/41626",
    ),
    measures="prompt tokens that are trained on, of five (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
