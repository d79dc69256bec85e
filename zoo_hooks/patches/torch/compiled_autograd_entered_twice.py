"""Compiled autograd compiles a nested backward pass twice, and torch up to 2.4 then deadlocks.

Symptom
-------
With compiled autograd (``torch._dynamo.config.compiled_autograd = True``), a backward pass can start
another one, as reentrant checkpointing does in each layer. It is then compiled once more from inside.
Functions are compiled twice, and torch up to 2.4 deadlocks.

Cause
-----
``AutogradCompilerInstance.end_capture`` returns a function that runs the compiled graph. This function does
not disable the autograd compiler, so every ``backward`` that it calls is captured again. torch 2.6 disables
the compiler around that call. The code of 2.4.1 and 2.5.1 was run in the engine of torch 2.13; the code of
2.1.2, 2.2.2 and 2.3.1 was read.

Repair
------
zoo-hooks runs that function inside torch's own ``compiled_autograd.disable()``, which restores the compiler
afterwards. What the function compiles and returns does not change.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


def probe(module: ModuleType) -> Verdict:
    instance = getattr(module, "AutogradCompilerInstance", None)
    if instance is None or not hasattr(instance, "end_capture"):
        return Verdict.UNKNOWN
    code = inspect.unwrap(instance.end_capture).__code__
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    if {"disable", "_disable"} & {name for each in (code, *inner) for name in each.co_names}:
        return Verdict.FIXED
    return Verdict.AFFECTED if hasattr(module, "disable") else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    disable = module.disable

    def quietly(run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def runs(*args: Any) -> Any:
            with disable():
                return run(*args)

        return runs

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def end_capture(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            if isinstance(made, tuple):  # what runs the compiled graph, and that graph
                return quietly(made[0]), *made[1:]
            return quietly(made)

        return end_capture

    changes.wrap(module.AutogradCompilerInstance, "end_capture", make)


def canary() -> Figure:
    import torch
    from torch._dynamo import compiled_autograd
    from torch.utils.checkpoint import checkpoint

    captured: list[Any] = []

    def compiler(graph: Any) -> Any:
        captured.append(graph)
        return graph

    enable = getattr(compiled_autograd, "_enable", None) or compiled_autograd.enable
    inputs = torch.ones(3, requires_grad=True)
    outputs = checkpoint(torch.sin, inputs, use_reentrant=True)
    with enable(compiler):
        outputs.sum().backward()
    return Figure(len(captured), healthy=len(captured) == 1)


PATCH = Patch(
    module=__name__,
    title="Compiled autograd captures a nested backward pass a second time",
    severity="crash",
    targets=("torch._dynamo.compiled_autograd",),
    affects=("torch>=2.1.0,<2.6.0",),
    links=(
        "https://github.com/pytorch/pytorch/issues/135298",
        "https://github.com/pytorch/pytorch/pull/135795",
    ),
    measures="graphs captured for a backward pass through one reentrant checkpoint (expected: 1)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
