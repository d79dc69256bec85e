"""What each wrapper of each applied patch adds to a call that a forward of a model makes.

The arguments are those with which tiny models call the function. Most wrappers hand on to what they
wrap: those are timed around a function that does nothing but give back the recorded result, beside that
function alone. So their own cost is seen to the nanosecond although the real call takes milliseconds; the
ratio is that of the real call with and without it. A repair that takes a function's place is timed
beside the real one, both on a module whose parts give back what they get; in float16, where such a
repair computes more, on the real module.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

from paired import Pair, nanoseconds, pair
from table import Table

from zoo_hooks import catalogue, ledger

GOAL = 1.0  # microseconds more than the plain call
CALL = "call(*args, **kwargs)"
REAL, HOLLOW = 1, 100  # calls in a loop; short, for on a busy machine long ones are interrupted


@dataclass
class Wrapper:
    """What a patch has put in the place of a function or attribute, and its first call in a forward."""

    patch: str
    owner: type | ModuleType
    name: str
    plain: Any
    ours: Any
    call: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None

    def record(self) -> None:
        """Keep the arguments and result of its first call."""
        ours = self.ours

        def recorder(*args: Any, **kwargs: Any) -> Any:
            given = args, dict(kwargs)
            result = ours(*args, **kwargs)
            self.call = self.call or (*given, result)
            return result

        setattr(self.owner, self.name, recorder)

    def measure(self, rounds: int, *, half: bool) -> tuple[float, Pair]:
        """The plain call, and the pair in which the wrapper differs from it, both in nanoseconds."""
        if isinstance(self.ours, property):
            assert isinstance(self.owner, type)
            plain, own = SimpleNamespace(), self.owner.__new__(self.owner)
            plain.__dict__[self.name] = own.__dict__[self.name] = 1.0
            read = f"own.{self.name}"
            taken = pair(nanoseconds(read, HOLLOW, own=plain), nanoseconds(read, HOLLOW, own=own), rounds)
            return taken.plain, taken
        assert self.call
        args, kwargs, result = self.call
        given = {"args": args, "kwargs": kwargs}
        real = nanoseconds(CALL, REAL, call=self.ours, **given)

        def nothing(*_: Any, **__: Any) -> Any:
            return result

        hollow = _around(self.ours, self.plain, nothing)
        on_tensors = len(args) > 1 and hasattr(args[1], "flatten")
        if half or (hollow is None and not on_tensors):
            taken = pair(nanoseconds(CALL, REAL, call=self.plain, **given), real, rounds)
            return taken.plain, taken
        if hollow is None:
            light = {"args": (_light(args[0]), args[1].flatten()[:1]), "kwargs": {}}
            sides = [nanoseconds(CALL, HOLLOW, call=call, **light) for call in (self.plain, self.ours)]
            taken = pair(*sides, rounds)
            return median(real() for _ in range(10)) - taken.more, taken
        empty = nanoseconds(CALL, HOLLOW, call=nothing, **given)
        taken = pair(empty, nanoseconds(CALL, HOLLOW, call=hollow, **given), rounds)
        return median(real() for _ in range(10)) - taken.more, taken


def _light(module: Any) -> SimpleNamespace:
    """What has the same attributes, and parts that give back what they get."""
    return SimpleNamespace(**vars(module), **dict.fromkeys(dict(module.named_children()), lambda x: x))


def _around(wrapper: FunctionType, plain: Any, other: Any) -> FunctionType | None:
    """The same wrapper around another function; None if it is around none."""
    held = [cell.cell_contents for cell in wrapper.__closure__ or ()]
    if not any(content is plain for content in held):
        return None
    cells = tuple(CellType(other if content is plain else content) for content in held)
    code, names, defaults = wrapper.__code__, wrapper.__globals__, wrapper.__defaults__
    made = FunctionType(code, names, wrapper.__name__, defaults, cells)
    made.__kwdefaults__ = wrapper.__kwdefaults__
    return made


def applied() -> Iterator[Wrapper]:
    """What the patches that are applied in this process have put where a forward may call it."""
    from transformers import PretrainedConfig

    for patch in catalogue.everything():
        for target in patch.targets:
            with suppress(ModuleNotFoundError):  # a family that this release lacks
                importlib.import_module(target)
            outcome = ledger.find(patch.id, target)
            for layer in outcome.changes._made if outcome and outcome.changes else ():  # noqa: SLF001
                owner, (before, after) = layer.place.owner, layer.made[-1]
                asked_once = isinstance(owner, type) and issubclass(owner, PretrainedConfig)
                wraps = callable(before) and isinstance(after, FunctionType)
                if (wraps or isinstance(after, property)) and not asked_once:
                    yield Wrapper(patch.id, owner, layer.place.name, before, after)


def run_models(dtype: Any) -> None:
    """Let every tiny model that this release has run, with an image and audio where it takes them."""
    import torch
    import transformers

    from zoo_hooks.patches.transformers import _four_bit, _tiny

    text = {"input_ids": _tiny.prompt()}
    runs: list[Any] = [(_tiny.gemma3n_model, [text])]
    if hasattr(transformers, "Gemma4ForCausalLM"):
        runs.append((lambda: _tiny.unshared_model(**_tiny.EXPERTS), [text]))
        runs.append((_tiny.multimodal_model, [_tiny.image_inputs(), _tiny.audio_inputs()]))
    if hasattr(transformers, "Gemma4UnifiedTextConfig"):
        runs.append((_tiny.unified_model, [text]))
        runs.append((_four_bit.unified_model, [_four_bit.unified_inputs()]))
    for make, inputs in runs:
        model = make().to(dtype)
        for given in inputs:
            cast = {name: one.to(dtype) if one.is_floating_point() else one for name, one in given.items()}
            with torch.no_grad():
                for use_cache in (False, True):
                    model(**cast, use_cache=use_cache)


def rows(dtype: Any, wrappers: list[Wrapper], rounds: int) -> Iterator[tuple[Any, ...]]:
    """Run the models and time what they called."""
    import torch

    functions = [one for one in wrappers if isinstance(one.ours, FunctionType)]
    for one in functions:
        one.record()
    run_models(dtype)
    for one in functions:
        setattr(one.owner, one.name, one.ours)
    for one in wrappers:
        if one.call or one not in functions:
            plain, taken = one.measure(rounds, half=dtype is torch.float16)
            more, low, high = (figure / 1e3 for figure in (taken.more, *taken.more_spread))
            function = f"{where(one)}, {str(dtype).partition('.')[2]}"
            yield one.patch, function, plain / 1e3, more, low, high, GOAL, 1 + taken.more / plain


def where(wrapper: Wrapper) -> str:
    """The class or module, and the name in it."""
    return f"{wrapper.owner.__name__.rpartition('.')[2]}.{wrapper.name}"


def table(rounds: int) -> Table:
    """Time every wrapper that a forward calls, and in float16 those that have more to do there."""
    title = "Wrappers that a forward calls"
    if find_spec("transformers") is None or find_spec("torch") is None:
        return Table(title, "transformers or torch is not installed")
    import torch

    torch.set_num_threads(1)
    with torch.no_grad():
        wrappers = list(applied())
        half = [one for one in wrappers if one.patch.endswith("-fp16")]
        body = [*rows(torch.bfloat16, wrappers, rounds)]
        idle = [where(one) for one in wrappers if not one.call and isinstance(one.ours, FunctionType)]
        for one in half:
            one.call = None
        body += rows(torch.float16, half, rounds)
    return Table(
        title,
        f"One call on tiny models: medians of {rounds} pairs and quartiles of what is added, transformers "
        f"{version('transformers')}. In float16 a repair computes more. Not called by these forwards: "
        f"{', '.join(idle) or 'none'}.",
        ("patch", "function", "plain µs", "more µs", "from", "to", "goal", "ratio"),
        body,
    )
