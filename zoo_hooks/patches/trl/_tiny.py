"""A tiny model, a tokenizer of letters, and one step of training for the canaries; nothing is downloaded."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Patch, Verdict

PROMPTS = ["a b", "b c"] * 2
WANTED = ["c d", "d e"] * 2


@contextlib.contextmanager
def mended(patch: Patch) -> Iterator[None]:
    """Another patch's bug is repaired in the block, so that the figure is that of one bug alone."""
    changes = Changes()
    target = import_module(patch.targets[0])
    if patch.probe(target) is Verdict.AFFECTED:
        patch.repair(target, changes)
    with contextlib.ExitStack() as stack:
        stack.callback(changes.undo)
        yield


def model() -> Any:
    """A causal language model with random weights, the same each time."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config)


def tokenizer() -> Any:
    """One that knows the letters."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    words = {word: n for n, word in enumerate([*special.values(), *"abcdefghijklmnopqrstuvwxyz"])}
    made = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


def loss(method: str, rows: dict[str, Any], *models: Any, **more: Any) -> float:
    """Loss of one step of a trainer of trl, named by its method."""
    import trl
    from datasets import Dataset

    settings = {name: more.pop(name) for name in list(more) if name != "reward_funcs"}
    with tempfile.TemporaryDirectory() as folder:
        arguments = getattr(trl, f"{method}Config")(
            output_dir=folder, max_steps=1, per_device_train_batch_size=2, logging_steps=1, report_to="none",
            save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, seed=0, **settings,
        )  # fmt: skip
        given = {"args": arguments, "train_dataset": Dataset.from_dict(rows), "processing_class": tokenizer()}
        trainer = getattr(trl, f"{method}Trainer")(*models, **given, **more)
        trainer.train()
        return float(trainer.state.log_history[0]["loss"])


def dpo_loss() -> float:
    """Loss of a DPO step of a model against itself."""
    rows = {"prompt": PROMPTS, "chosen": WANTED, "rejected": ["x y", "z z"] * 2}
    return loss("DPO", rows, model(), model())


def kto_loss() -> float:
    """Loss of a KTO step of a model against itself."""
    rows = {"prompt": PROMPTS, "completion": WANTED, "label": [True, False] * 2}
    return loss("KTO", rows, model(), model())


def constrained(regex: str) -> tuple[Any, Any]:
    """The constraint, and the sampling parameters with it, that TRL makes for vLLM."""
    from zoo_hooks.patches.trl import availability_flags

    vllm = import_module("vllm.sampling_params")
    with mended(availability_flags.PATCH):
        maker = import_module("trl.trainer.grpo_trainer")
        if not hasattr(maker, "SamplingParams"):  # it leaves that to others before 0.18 and from 0.28
            ours = find_spec("trl.generation")
            maker = import_module("trl.generation.vllm_generation" if ours else "trl.scripts.vllm_serve")
    old = getattr(maker, "GuidedDecodingParams", None)
    constraint = (old or vllm.StructuredOutputsParams)(regex=regex)
    given = {"guided_decoding" if old else "structured_outputs": constraint}
    return constraint, maker.SamplingParams(n=1, **given)
