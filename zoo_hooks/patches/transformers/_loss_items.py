"""What the patches of ``Trainer`` share that ask what divides a loss, where a step has several batches."""

from __future__ import annotations

import dis
import functools
import inspect
from typing import Any

from zoo_hooks.model import Figure

FLAG, ITEMS, LOSS = "model_accepts_loss_kwargs", "num_items_in_batch", "loss_function"
MEANS = {"CrossEntropyLoss", "MSELoss", "BCEWithLogitsLoss"}


def drops(forward: Any) -> bool:
    """Tell whether a forward that takes any keywords computes a loss to which it hands none of them."""
    code = inspect.unwrap(forward).__code__
    if not code.co_flags & inspect.CO_VARKEYWORDS or _names(code):
        return False
    return not _hands(code) if LOSS in code.co_names else bool(MEANS & {*code.co_names})


def divides(forward: Any) -> bool:
    """Tell whether a forward is sure to see the number of items, or hands its keywords to the loss."""
    code = inspect.unwrap(forward).__code__
    return _names(code) or _hands(code)


def _names(code: Any) -> bool:
    return ITEMS in (*code.co_names, *code.co_varnames, *code.co_consts)


@functools.lru_cache(maxsize=64)
def _hands(code: Any) -> bool:
    handing = computing = False
    for one in dis.get_instructions(code):
        computing = one.argval == LOSS or (computing and not one.opname.startswith("STORE_FAST"))
        handing |= computing and one.opname == "CALL_FUNCTION_EX"
    return handing


def base(model: Any) -> Any:
    """The model that an adapter of peft is of, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def times(kind: str, **config: Any) -> Figure:
    """Canary: the gradient of a Llama accumulated over two batches, relative to that of one batch."""
    import tempfile

    import accelerate  # noqa: F401 - without it there is no Trainer
    import torch
    import transformers

    shape = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    texts = [torch.tensor([1, 2, 3 + n]) for n in range(4)]
    labels = texts if kind == "LlamaForCausalLM" else [n % 2 for n in range(4)]

    def gradient(size: int, steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = getattr(transformers, kind)(transformers.LlamaConfig(**shape, **heads, **config))
        seen, weight = [], list(model.parameters())[-1]
        weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.clone()))
        rows = [{"input_ids": text, "labels": label} for text, label in zip(texts, labels, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            args = transformers.TrainingArguments(
                folder, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
                report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
            )  # fmt: skip
            transformers.Trainer(model=model, args=args, train_dataset=rows).train()
        return seen[-1]

    with torch.random.fork_rng(devices=[]):
        one, two = gradient(4, 1), gradient(2, 2)
    found = round(float((two * one).sum() / (one * one).sum()), 4)
    return Figure(found, healthy=abs(found - 1) < 1e-3)  # noqa: PLR2004
