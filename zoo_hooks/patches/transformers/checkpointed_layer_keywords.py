"""Under reentrant checkpointing, layers that get their input by keyword receive no gradients.

Symptom
-------
Layers whose input is passed by keyword do not learn under reentrant gradient checkpointing. There is no
error, and the loss is correct. In Llama-4's vision tower 37 of 41 parameters get no gradient. Everything
before the tower gets none either. The two-way transformers of SAM2, SAM3's trackers and EdgeTAM are
affected too.

Checkpointing is reentrant with ``use_reentrant=True``. It is also reentrant without the keyword, because
torch then uses True. ``peft.prepare_model_for_kbit_training(model)`` leaves the keyword out.

Mllama and other models also pass encoded images or text to their layers by keyword. They raise ``Trying to
backward through the graph a second time`` if those tensors need gradients.

Cause
-----
``GradientCheckpointingLayer`` passes positional arguments to the checkpoint function, but binds keyword
arguments to the function that is checkpointed. Reentrant checkpointing only knows the tensors that are
passed to it.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
zoo-hooks passes tensors that need gradients to the layer's checkpoint function by position. The layer still
receives them by keyword. A checkpoint function with ``use_reentrant=False`` is left alone. Tensors inside a
tuple or dictionary are not covered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _calls


def probe(module: ModuleType) -> Verdict:
    """What the checkpoint function of a layer is handed that gets its input by keyword."""
    base = module.GradientCheckpointingLayer

    import torch

    class Layer(base):  # type: ignore[misc, valid-type]
        def forward(self, hidden_states: Any) -> Any:
            return hidden_states

    handed: list[Any] = []

    def checkpoint(run: Any, *inputs: Any) -> Any:
        handed.extend(inputs)
        return run(*inputs)

    layer, given = Layer().train(), torch.empty(1, requires_grad=True)
    layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, checkpoint  # noqa: SLF001
    with torch.enable_grad():
        if layer(hidden_states=given) is not given:
            return Verdict.UNKNOWN
    return Verdict.FIXED if any(one is given for one in handed) else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    function = _calls.attribute("_gradient_checkpointing_func", _handing_on_keywords)
    changes.replace(module.GradientCheckpointingLayer, "_gradient_checkpointing_func", function)


def _handing_on_keywords(function: Any) -> Any:
    if not callable(function) or getattr(function, "keywords", {}).get("use_reentrant") is False:
        return function
    return functools.partial(_checkpoint, function)


def _checkpoint(function: Callable[..., Any], run: Any, *inputs: Any, **more: Any) -> Any:
    import torch

    named = getattr(run, "keywords", {})
    names = [name for name, value in named.items() if isinstance(value, torch.Tensor) and value.requires_grad]
    if not names:
        return function(run, *inputs, **more)
    rest = {name: value for name, value in named.items() if name not in names}
    run = functools.partial(_run, functools.partial(run.func, *run.args, **rest), names)
    return function(run, *(named[name] for name in names), *inputs, **more)


def _run(run: Callable[..., Any], names: list[str], *inputs: Any) -> Any:
    count = len(names)
    return run(*inputs[count:], **dict(zip(names, inputs[:count], strict=True)))


def canary() -> Figure:
    """Of a model of two layers that are called by keyword, as those of Llama-4's vision tower are."""
    import torch
    from transformers import modeling_layers, modeling_utils

    class Layer(modeling_layers.GradientCheckpointingLayer):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((4,), 2.0))

        def forward(self, hidden_states: Any) -> Any:
            return hidden_states.tanh() * self.scale

    class Model(modeling_utils.PreTrainedModel):  # type: ignore[misc, unused-ignore]
        supports_gradient_checkpointing = True
        main_input_name = "hidden_states"

        def __init__(self) -> None:
            super().__init__(_config(modeling_utils))
            self.before, self.layers = (
                torch.nn.Parameter(torch.ones(4)),
                torch.nn.ModuleList([Layer(), Layer()]),
            )

        def forward(self, hidden_states: Any) -> Any:
            hidden_states = hidden_states * self.before
            for layer in self.layers:
                hidden_states = layer(hidden_states=hidden_states)
            return hidden_states + self.before

    model = Model().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model(torch.linspace(-1, 1, 4)).sum().backward()
    missing = sum(parameter.grad is None for parameter in model.layers.parameters())
    return Figure(missing, healthy=missing == 0)


def _config(module: ModuleType) -> Any:
    return (getattr(module, "PreTrainedConfig", None) or module.PretrainedConfig)()


PATCH = Patch(
    module=__name__,
    title="Reentrant checkpointing gives no gradients to layers that get their input by keyword",
    severity="silent wrong result",
    symptoms=(
        "Trying to backward through the graph a second time @ torch.utils.checkpoint @ modeling_layers",
    ),
    targets=("transformers.modeling_layers",),
    affects=("transformers>=4.52.1",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/llama4/modeling_llama4.py#L930",
    ),
    measures="parameters without a gradient in layers called by keyword, of 2 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
