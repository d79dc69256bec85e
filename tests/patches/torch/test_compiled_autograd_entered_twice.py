"""Backwards inside a compiled backward, with the code of torch 2.5.1 in the engine of the torch that is here.

No torch before 2.6 for a CPU is to be had as a small wheel for Linux. What the bug is about, the function
that ``end_capture`` returns, is Python: it is taken out of the wheel of 2.5.1 for macOS, which
``ZOO_HOOKS_TEST_TORCH`` names, and put in the place of that of the torch that is here.
"""

from __future__ import annotations

import ast
import contextlib
import os
import textwrap
import zipfile
from types import ModuleType

import pytest
import torch
from conftest import python
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

from zoo_hooks import catalogue
from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict

PATCH = "compiled-autograd-entered-twice"
WHEEL = os.environ.get("ZOO_HOOKS_TEST_TORCH")
needs_the_wheel = pytest.mark.skipif(
    not WHEEL, reason="the wheel of torch 2.5.1 is not part of this environment"
)


@pytest.fixture
def patch():
    return catalogue.get(PATCH)


def source():
    with zipfile.ZipFile(WHEEL) as wheel:
        return wheel.read("torch/_dynamo/compiled_autograd.py").decode()


def lifted(name):
    """The source of one function of 2.5.1, at whatever depth it stands."""
    text = source()
    (node,) = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return textwrap.dedent(" " * node.col_offset + ast.get_source_segment(text, node))


@pytest.fixture
def old(monkeypatch):
    """The module as in 2.5.1, as far as the bug goes; its class is in force in this torch's engine."""
    module = ModuleType("compiled_autograd")
    space = vars(module) | {"runtime_inputs_to_move": []}
    exec(lifted("runtime_wrapper"), space)
    theirs = space["runtime_wrapper"]
    current = compiled_autograd.AutogradCompilerInstance

    class AutogradCompilerInstance(current):
        def end_capture(self, outputs):
            here, compiled = super().end_capture(outputs)

            def runtime_wrapper(compiled_fn, inputs, sizes, scalars, hooks, *more):
                def of_four(*args):
                    return here(compiled_fn, *args, *more)

                return theirs(of_four, inputs, sizes, scalars, hooks)

            return runtime_wrapper, compiled

    module.AutogradCompilerInstance = AutogradCompilerInstance
    module.disable = compiled_autograd._disable
    monkeypatch.setattr(compiled_autograd, "AutogradCompilerInstance", AutogradCompilerInstance)
    monkeypatch.setattr(compiled_autograd, "_disable", contextlib.nullcontext)  # what 2.6 added
    yield module
    torch._C._dynamo.compiled_autograd.clear_cache()
    assert space["in_compiled_autograd_region"] is False


def gradient(function, *, compiled=True):
    """The gradient of a function at 1, and how many graphs were captured for it."""
    captured = []

    def compiler(graph):
        captured.append(graph)
        return graph

    inputs = torch.ones(3, requires_grad=True)
    outputs = function(inputs)
    with compiled_autograd._enable(compiler) if compiled else contextlib.nullcontext():
        outputs.sum().backward()
    return inputs.grad, len(captured)


def nested(inputs):
    return checkpoint(torch.sin, inputs, use_reentrant=True)


@needs_the_wheel
def test_the_code_of_2_5_1_is_affected(patch):
    """So says the probe of its own class; the name that a later release uses makes it FIXED."""
    for text, verdict in (
        (source(), Verdict.AFFECTED),
        (source().replace("return compiled_fn(", "with disable(): return compiled_fn("), Verdict.FIXED),
    ):
        module = ModuleType("compiled_autograd")
        exec(compile(text, "compiled_autograd.py", "exec"), vars(compiled_autograd) | vars(module))
        space = {}
        tree = ast.parse(text)
        tree.body = [
            node for node in tree.body if getattr(node, "name", "") in ("AutogradCompilerInstance", "disable")
        ]
        exec(compile(tree, "compiled_autograd.py", "exec"), dict(vars(compiled_autograd)), space)
        vars(module).update(space)
        assert patch.probe(module) is verdict


@needs_the_wheel
def test_a_backward_inside_is_captured_again_without_the_repair(old):
    """This torch's engine refuses it by name; that of 2.5.1 did it."""
    with pytest.raises(NotImplementedError, match="compiled autograd within another compiled autograd call"):
        gradient(nested)


@needs_the_wheel
def test_with_the_repair_it_is_captured_once(old, patch):
    """One graph, and the gradient of eager mode; afterwards compiled autograd is in force again."""
    expected, _ = gradient(nested, compiled=False)
    changes = Changes()
    patch.repair(old, changes)
    for _ in range(3):
        found, graphs = gradient(nested)
        assert torch.equal(found, expected)
        assert graphs <= 1  # none where it is in torch's cache
    with compiled_autograd._enable(lambda graph: graph):
        nested(torch.ones(3, requires_grad=True)).sum().backward()
        assert compiled_autograd.compiled_autograd_enabled
    assert not compiled_autograd.compiled_autograd_enabled
    changes.undo()
    assert not hasattr(old.AutogradCompilerInstance.end_capture, "__wrapped__")


@needs_the_wheel
def test_errors_come_through_and_the_compiler_is_put_back(old, patch):
    """A backward that raises, raises the same; the next one is right."""
    patch.repair(old, Changes())

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x.clone()

        @staticmethod
        def backward(_, _grad):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        gradient(lambda x: checkpoint(Fails.apply, x, use_reentrant=True))
    assert not compiled_autograd.in_compiled_autograd_region
    assert torch.equal(gradient(nested)[0], gradient(nested, compiled=False)[0])


def test_a_single_function_as_old_releases_return_it(patch):
    """Up to 2.3 ``end_capture`` returns what runs, alone: it runs while the compiler is out of force."""
    seen = []

    class Instance:
        def end_capture(self, _outputs):
            return lambda *args: (seen.append("run"), *args)

    @contextlib.contextmanager
    def disable():
        seen.append("off")
        yield
        seen.append("on")

    module = ModuleType("compiled_autograd")
    module.AutogradCompilerInstance, module.disable = Instance, disable
    patch.repair(module, Changes())
    assert Instance().end_capture([])(1, 2) == (None, 1, 2)
    assert seen == ["off", "run", "on"]


def test_the_torch_that_is_here_is_untouched():
    """Its own function is in place."""
    python(f"""
        import zoo_hooks
        zoo_hooks.init()
        from torch._dynamo import compiled_autograd
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert not hasattr(compiled_autograd.AutogradCompilerInstance.end_capture, "__wrapped__")
    """)
