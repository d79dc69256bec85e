"""A step of ``Trainer`` on four rows, in as many batches as their size asks for."""

from __future__ import annotations

import torch
import transformers


def step(model, size, rows, folder, kind=transformers.Trainer, **more):
    """Gradient of all weights after a step, and the trainer."""
    seen = {}

    class Seeing(kind):
        def training_step(self, model, *args, **kwargs):
            loss = super().training_step(model, *args, **kwargs)
            grads = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
            seen["all"] = torch.cat(grads)
            return loss

    args = transformers.TrainingArguments(
        str(folder), max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size,
        report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, logging_steps=1,
        **more.pop("given", {}),
    )  # fmt: skip
    trainer = Seeing(model=model, args=args, train_dataset=rows, **more)
    trainer.train()
    return seen["all"], trainer


def rows(texts, labels):
    return [{"input_ids": text, "labels": label} for text, label in zip(texts, labels, strict=True)]


def compared(make, given_rows, folder, size, **more):
    """The gradient in batches of that size, times that of one batch, and both trainers."""
    (one, first), (other, second) = (step(make(), n, given_rows, folder, **more) for n in (4, size))
    ratio = float((other * one).sum() / (one * one).sum())
    assert torch.allclose(other, ratio * one, atol=1e-5)
    return round(ratio, 3), first, second
