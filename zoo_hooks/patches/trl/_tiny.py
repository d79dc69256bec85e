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
    """Repair another patch's bug inside the block, so that the figure shows one bug alone."""
    changes = Changes()
    target = import_module(patch.targets[0])
    if patch.probe(target) is Verdict.AFFECTED:
        patch.repair(target, changes)
    with contextlib.ExitStack() as stack:
        stack.callback(changes.undo)
        yield


def model(kind: str = "LlamaForCausalLM", **more: Any) -> Any:
    """A language model with random weights, the same each time."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=1, **more,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, kind)(config)


def tokenizer() -> Any:
    """A tokenizer whose words are the letters of the alphabet."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    words = {word: n for n, word in enumerate([*special.values(), *"abcdefghijklmnopqrstuvwxyz"])}
    made = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


def loss(method: str, rows: dict[str, Any], *models: Any, **more: Any) -> float:
    """Loss of one step of a trainer of trl; ``method`` is its name, such as DPO."""
    with trainer(method, rows, *models, **more) as made:
        made.train()
        return float(made.state.log_history[0]["loss"])


def batch(method: str, rows: dict[str, Any], *models: Any, **more: Any) -> Any:
    """First batch of a trainer of trl, whose chat template joins the messages of a chat."""
    processing_class = tokenizer()
    processing_class.chat_template = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"
    with trainer(method, rows, *models, processing_class=processing_class, **more) as made:
        return next(iter(made.get_train_dataloader()))


@contextlib.contextmanager
def trainer(
    method: str,
    rows: dict[str, Any],
    *models: Any,
    processing_class: Any = None,
    args: Any = None,
    **more: Any,
) -> Iterator[Any]:
    """A trainer of trl by its ``method``, for one step of two rows unless the arguments say otherwise."""
    import trl
    from datasets import Dataset

    settings = {name: more.pop(name) for name in list(more) if name != "reward_funcs"}
    with tempfile.TemporaryDirectory() as folder:
        args = args or getattr(trl, f"{method}Config")(
            output_dir=folder, max_steps=1, per_device_train_batch_size=2, logging_steps=1, report_to="none",
            save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, seed=0, **settings,
        )  # fmt: skip
        given = {"args": args, "train_dataset": Dataset.from_dict(rows)}
        given["processing_class"] = processing_class or tokenizer()
        yield getattr(trl, f"{method}Trainer")(*models, **given, **more)


def dpo_loss() -> float:
    """Loss of a DPO step with identical policy and reference models."""
    rows = {"prompt": PROMPTS, "chosen": WANTED, "rejected": ["x y", "z z"] * 2}
    return loss("DPO", rows, model(), model())


def kto_loss() -> float:
    """Loss of a KTO step with identical policy and reference models."""
    rows = {"prompt": PROMPTS, "completion": WANTED, "label": [True, False] * 2}
    return loss("KTO", rows, model(), model())


def constrained(regex: str) -> tuple[Any, Any]:
    """The constraint that trl creates for vLLM, and the sampling parameters that contain it."""
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
