"""Time and memory of a training step with the hooks and without, in one process by turns.

Without them the patches are undone (``zoo_hooks.disabled``) for one step, so that both sides have the same
weights and neighbours. The memory is the peak of what torch's allocator hands out in the step, gradients
included: its profiler reports each allocation and each release, and their running sum is
repeatable, unlike the size of the process, which keeps what it once had. Gradients of the step before are
dropped first, for the profiler reports no release of what it has not seen allocated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from paired import Pair, pair
from table import Table

import zoo_hooks
from zoo_hooks.model import Status

LARGE: dict[str, Any] = {
    "vocab_size": 65536,
    "vocab_size_per_layer_input": 65536,
    "hidden_size": 768,
    "intermediate_size": 2560,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 64,
    "num_hidden_layers": 12,
    "num_kv_shared_layers": 8,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "num_global_key_value_heads": 1,
    "head_dim": 128,
    "global_head_dim": 256,
    "sliding_window": 32,
}
"""Shaped like E2B, with 0.3 billion parameters."""
MODES: dict[str, dict[str, Any] | None] = {
    "no checkpointing": None,
    "checkpointing, as peft asks for it": {},
}
MEBI = 2**20


class Trained:
    """A model and its optimizer, and one batch."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        import torch

        self.model = model.train()
        self.inputs = inputs | {"labels": inputs["input_ids"], "use_cache": False}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)
        self.size = sum(parameter.numel() for parameter in self.model.parameters())

    def step(self) -> None:
        """Forward, backward, update; the gradients are dropped before."""
        self.model(**self.inputs).loss.backward()
        self.optimizer.step()

    def side(self, mode: dict[str, Any] | None, undone: list[str], *, memory: bool) -> float:
        """Seconds, or bytes at the peak, of a step in which these patches are undone."""
        with ExitStack() as stack:
            for patch in undone:
                stack.enter_context(zoo_hooks.disabled(patch))
            if mode is not None:
                self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=mode)
            self.step()  # Python forgets what it knew of classes that are changed, and learns it again
            self.optimizer.zero_grad()
            if memory:
                return self._peak()
            start = time.perf_counter()
            self.step()
            return time.perf_counter() - start

    def _peak(self) -> float:
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step()
        events = [
            event
            for event in profiler.profiler.kineto_results.events()
            if event.name() == "[memory]" and event.device_type() == DeviceType.CPU
        ]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak

    def compare(self, mode: dict[str, Any] | None, patches: list[str], rounds: int) -> tuple[Any, ...]:
        """Times and peaks with the patches and without."""
        taken: Pair = pair(
            lambda: self.side(mode, patches, memory=False),
            lambda: self.side(mode, [], memory=False),
            rounds,
        )
        peaks = [self.side(mode, undone, memory=True) / MEBI for undone in (patches, [])]
        return taken.plain * 1e3, taken.ours * 1e3, taken.ratio, *taken.ratio_spread, *peaks


def models(rounds: int) -> Iterator[tuple[str, Callable[[], Any], dict[str, Any], int]]:
    """Name, model, a batch and the number of pairs: tiny ones of each shape, and one of 0.3 billion."""
    from zoo_hooks.patches.transformers import _tiny

    text, dense = {"input_ids": _tiny.prompt()}, {"attention_k_eq_v": True}
    yield "E2B", lambda: _tiny.shared_model(**_tiny.PER_LAYER_INPUTS), text, 4 * rounds
    yield "31B", lambda: _tiny.unshared_model(**dense), text, 4 * rounds
    yield "26B-A4B", lambda: _tiny.unshared_model(**dense, **_tiny.EXPERTS), text, 4 * rounds
    yield "with an image", _tiny.multimodal_model, _tiny.image_inputs(), 4 * rounds
    yield "with audio", _tiny.multimodal_model, _tiny.audio_inputs(), 4 * rounds
    yield "Gemma-3n", _tiny.gemma3n_model, text, 4 * rounds
    long = {"input_ids": _tiny.prompt(64)}
    yield "E2B, 64 tokens", lambda: _tiny.shared_model(**LARGE), long, max(rounds // 5, 3)


def table(rounds: int) -> Table:
    """Train tiny models and one of 0.3 billion parameters a few steps."""
    title = "A step of training"
    if find_spec("transformers") is None or find_spec("torch") is None:
        return Table(title, "transformers or torch is not installed")
    if find_spec("transformers.models.gemma4") is None:
        return Table(title, f"transformers {version('transformers')} has no Gemma-4")
    rows = []
    for name, make, inputs, times in models(rounds):
        trained = Trained(make(), inputs)
        patches = [row.id for row in zoo_hooks.report().rows if row.status is Status.APPLIED]
        for how, mode in MODES.items():
            rows.append(
                (f"{name}, {trained.size / 1e6:.3g} M, {how}", *trained.compare(mode, patches, times))
            )
        del trained
    return Table(
        title,
        f"Models of each shape on this machine's CPU, transformers {version('transformers')}, "
        f"{', '.join(patches)}. Medians of pairs, quartiles of the ratio.",
        ("model", "without ms", "with ms", "ratio", "from", "to", "peak MiB without", "peak MiB with"),
        rows,
    )
