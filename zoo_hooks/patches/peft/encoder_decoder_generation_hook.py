"""peft up to 0.21.1 cannot wrap encoder-decoder models of transformers 5.18 and later.

Symptom
-------
``get_peft_model`` with ``task_type="SEQ_2_SEQ_LM"``, with LoRA as with other methods, raises
``AttributeError: 'T5ForConditionalGeneration' object has no attribute
'_prepare_encoder_decoder_kwargs_for_generation'``.

Cause
-----
peft saves this method of the base model. It replaces the method during each ``generate`` and restores it
afterwards. transformers 5.18.0 removed the method and no longer calls it.

Repair
------
zoo-hooks adds a method of that name to ``GenerationMixin``. If anything calls it, it raises an error that
says the method is gone. peft can save, replace and restore it as before. peft 0.21.2 no longer looks for
the method.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

NAME = "_prepare_encoder_decoder_kwargs_for_generation"
PEFT_MODEL, GENERATION = "peft.peft_model", "transformers.generation.utils"
STEPS = 4


def probe(_: ModuleType) -> Verdict:
    kind = sys.modules[PEFT_MODEL].PeftModelForSeq2SeqLM
    if NAME not in inspect.unwrap(kind.__init__).__code__.co_names:
        return Verdict.FIXED
    return Verdict.FIXED if hasattr(sys.modules[GENERATION].GenerationMixin, NAME) else Verdict.AFFECTED


def repair(_: ModuleType, changes: Changes) -> None:
    changes.replace(sys.modules[GENERATION].GenerationMixin, NAME, _gone)


def _gone(self: Any, *_: Any, **__: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__}.{NAME} is gone; generate runs the encoder by itself")


def canary() -> Figure:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
        base = transformers.T5ForConditionalGeneration(config).eval()
        text, how = (
            torch.tensor([[3, 4, 5]]),
            {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False},
        )
        expected = base.generate(input_ids=text, **how)
        lora = LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q"])  # adds nothing yet
        wrong = int((get_peft_model(base, lora).generate(input_ids=text, **how) != expected).sum())
    return Figure(wrong, healthy=wrong == 0)


PATCH = Patch(
    module=__name__,
    title="peft up to 0.21.1 cannot wrap encoder-decoder models",
    severity="crash",
    symptoms=(f"object has no attribute '{NAME}' @ peft.peft_model",),
    targets=(PEFT_MODEL, GENERATION),
    affects=("peft>=0.15.0,<0.21.2", "transformers>=5.18.0"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.20.0/src/peft/peft_model.py#L2406",
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/generation/utils.py",
    ),
    measures="generated tokens that a new LoRA changes, of four (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=(PEFT_MODEL, GENERATION),
)
