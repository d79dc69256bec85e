"""Reentrant checkpointing gives no gradients to layers that are called by keyword.

Symptom
-------
With ``use_reentrant=True``, and where the keyword is absent, which torch takes as True
(``peft.prepare_model_for_kbit_training(model)`` does that), layers whose input goes by keyword do not learn:
no error, the loss is right, and of Llama-4's vision tower 37 of 41 parameters get no gradient, nor does what
lies before it. So do the two-way transformers of SAM2, SAM3's trackers and EdgeTAM. Mllama and other models
whose layers also get encoded images or text by keyword raise ``Trying to backward through the graph a second
time`` where those need gradients.

Cause
-----
``GradientCheckpointingLayer`` hands positional arguments to the checkpoint function, and binds keywords to
what it runs. Reentrant checkpointing knows only what it is handed.

Repair
------
The function that a layer checkpoints with is handed tensors that need gradients by position, and the layer
gets them by keyword as before. One with ``use_reentrant=False`` is left as it is. Tensors inside of a tuple
or dictionary are not covered.
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
    import torch

    class Layer(module.GradientCheckpointingLayer):  # type: ignore[misc, name-defined]
        def forward(self, hidden_states: Any) -> Any:
            return hidden_states

    handed: list[Any] = []

    def checkpoint(run: Any, *inputs: Any) -> Any:
        handed.extend(inputs)
        return run(*inputs)

    layer, given = Layer().train(), torch.zeros(1, requires_grad=True)
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
    title="reentrant checkpointing gives no gradients to layers that are called by keyword",
    severity="silent wrong result",
    symptoms=(
        "Trying to backward through the graph a second time @ torch.utils.checkpoint @ modeling_layers",
    ),
    targets=("transformers.modeling_layers",),
    affects=("transformers>=4.52.1",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/llama4/modeling_llama4.py#L930",
    ),
    measures="parameters of layers called by keyword that get no gradient, of 2 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
