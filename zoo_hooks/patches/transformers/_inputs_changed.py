"""Patches for forwards that write into a tensor of their caller, or into the output of frozen embeddings."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _source, _tiny

Call = Callable[..., Any]
LEAF = "leaf Variable that requires grad is being used in an in-place operation"
SEEN = "change of the tensor that the caller passed (expected: 0.0)"
IDS, EMBEDS, SETS = "input_ids", "inputs_embeds", "[]="
"""The last is what ``written`` calls an assignment to a part of a tensor."""

TEXT: dict[str, Any] = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}
VISION = {key: value for key, value in TEXT.items() if key != "vocab_size"} | {
    "image_size": 16,
    "patch_size": 8,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method, whose in-place operations the probe reads.

    ``writes`` is the faulty operation: ``name +=``, ``name *=`` or ``[]=``. ``argument`` is what it writes
    into, if the caller passes that. ``table`` gets the object of the method, and returns the
    embeddings that it calls.
    """

    module: str
    title: str
    target: str
    line: int
    affects: str
    holders: tuple[str, ...]
    writes: str
    canary: Callable[[], Figure]
    method: str = "forward"
    argument: str = EMBEDS
    table: Call | None = None
    severity: Any = "silent wrong result"
    measures: str = SEEN

    def owner(self, module: ModuleType) -> Any:
        """The first of the classes that the module contains."""
        return next((getattr(module, name) for name in self.holders if hasattr(module, name)), None)

    def probe(self, module: ModuleType) -> Verdict:
        function = getattr(self.owner(module), self.method, None)
        return verdict(function, self.argument or IDS, self.writes) if function else Verdict.UNKNOWN

    def repair(self, module: ModuleType, changes: Changes) -> None:
        owner, argument, table = self.owner(module), self.argument, self.table
        changes.wrap(owner, self.method, lambda original: copying(original, argument, table))

    def patch(self) -> Patch:
        return Patch(
            module=self.module,
            title=self.title,
            severity=self.severity,
            symptoms=(f"{LEAF} @ {self.target}",) if self.table else (),
            targets=(self.target,),
            affects=(self.affects,),
            links=(_source.link(self.target, self.line),),
            measures=self.measures,
            probe=self.probe,
            repair=self.repair,
            canary=self.canary,
            behavioural=False,
        )


def verdict(function: Any, parameter: str, writes: str) -> Verdict:
    """Tell whether a function has the operation. It is UNKNOWN without the parameter or the variable."""
    code = inspect.unwrap(function).__code__
    names = {parameter, *([] if writes == SETS else writes.split()[:1])}
    if not names <= {*code.co_varnames}:
        return Verdict.UNKNOWN
    copied = writes == SETS and "clone" in code.co_names
    return Verdict.AFFECTED if writes in {*written(code)} and not copied else Verdict.FIXED


def written(code: CodeType) -> Iterator[str]:
    """The in-place operations of a function."""
    before: Any = None
    for one in dis.get_instructions(code):
        if one.opname == "STORE_SUBSCR":
            yield SETS
        if before and one.opname.startswith("STORE_FAST"):
            name = one.argval[0] if isinstance(one.argval, tuple) else one.argval
            yield f"{name} {before}"
        before = None
        if one.opname == "BINARY_OP" and one.argrepr.endswith("="):
            before = one.argrepr
        elif one.opname in OLD:
            before = OLD[one.opname]


OLD = {"INPLACE_ADD": "+=", "INPLACE_MULTIPLY": "*="}
"""Names of Python 3.10."""


def copying(original: Call, argument: str, table: Call | None) -> Call:
    """Call a method with copies of what it writes into."""
    names = [*inspect.signature(original).parameters]
    place = names.index(argument) - 1 if argument else len(names)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = args[place] if len(args) > place else kwargs.get(argument)
        if given is not None:
            if len(args) > place:
                args = (*args[:place], given.clone(), *args[place + 1 :])
            else:
                kwargs[argument] = given.clone()
        elif table and (embeddings := table(self))._forward_hooks:  # noqa: SLF001
            with embeddings.register_forward_hook(copy_of_leaf):
                return original(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return forward


def copy_of_leaf(_: Any, __: Any, output: Any) -> Any:
    """A hook of embeddings. ``enable_input_require_grads`` makes the output of frozen ones a leaf."""
    return output.clone() if output.is_leaf and output.requires_grad else output


def figure(model: Any, argument: str = EMBEDS, given: Any = None, **more: Any) -> Figure:
    """Canary: what one call changes in a tensor, by default in embeddings of eight tokens."""
    import torch

    with torch.no_grad():
        if given is None:
            given = model.get_input_embeddings()(_tiny.prompt(8))
        before = given.clone()
        model(**{argument: given}, **more)
    change = float((given - before).abs().max())
    return Figure(round(change, 5), healthy=change == 0)


def pixels() -> Any:
    """An image of 16 by 16."""
    import torch

    return torch.linspace(-1, 1, 3 * 16 * 16).sin().view(1, 3, 16, 16)
