"""Backwards inside a compiled backward, with the code of old torch in the engine of the torch that is here.

No torch before 2.6 for a CPU is to be had as a small wheel for Linux. What the bug is about, the function
that ``end_capture`` returns, is Python: it is taken out of wheels for macOS, which ``ZOO_HOOKS_TEST_TORCH``
names, and put in the place of that of the torch that is here. So were 2.4.1 and 2.5.1 run; of 2.1.2, 2.2.2,
2.3.1 and 2.6.0 the probe was asked, the last one in a cell.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import textwrap
import zipfile
from types import ModuleType

import pytest
import torch
from conftest import ATLAS, python
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

from zoo_hooks import catalogue
from zoo_hooks.changes import CannotRevert, Changes
from zoo_hooks.model import Verdict

PATCH = "torch/compiled-autograd-entered-twice"
WHEELS = {
    re.search(r"torch-([\d.]+)", wheel)[1]: wheel
    for wheel in os.environ.get("ZOO_HOOKS_TEST_TORCH", "").split(os.pathsep)
    if wheel
}
needs_a_wheel = pytest.mark.skipif(not WHEELS, reason="no wheel of torch is part of this environment")


@pytest.fixture
def patch():
    return catalogue.get(PATCH)


def source(release):
    with zipfile.ZipFile(WHEELS[release]) as wheel:
        return wheel.read("torch/_dynamo/compiled_autograd.py").decode()


def lifted(name, text):
    """The source of one function, at whatever depth it stands."""
    (node,) = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return textwrap.dedent(" " * node.col_offset + ast.get_source_segment(text, node))


def quieted(text):
    """What upstream has made of it, and other tools do: the compiler is out of force for that call."""
    assert text.count("return compiled_fn(") == 1
    return text.replace("return compiled_fn(", "with disable(): return compiled_fn(")


def built(text, space):
    """``end_capture`` with the ``runtime_wrapper`` of that source; this torch captures the graph."""
    inner = textwrap.indent(lifted("runtime_wrapper", text), "    ")
    exec(
        "def end_capture(self, outputs):\n"
        "    self.here, compiled = current(self, outputs)\n"
        f"    runtime_inputs_to_move = []\n{inner}\n"
        "    return runtime_wrapper, compiled\n",
        space,
    )
    return space["end_capture"]


@pytest.fixture(params=[release for release in WHEELS if "2.4" <= release < "2.6"])
def old(request, monkeypatch):
    """The module as in that release, as far as the bug goes; its class is in force in this torch's engine."""
    module = ModuleType("compiled_autograd")
    module.text = source(request.param)
    module.disable = compiled_autograd._disable
    module.in_compiled_autograd_region = False
    module.current = compiled_autograd.AutogradCompilerInstance.end_capture
    names = [each.arg for each in ast.parse(lifted("runtime_wrapper", module.text)).body[0].args.args]

    class AutogradCompilerInstance(compiled_autograd.AutogradCompilerInstance):
        end_capture = built(module.text, vars(module))

    module.AutogradCompilerInstance = AutogradCompilerInstance

    class InForce(AutogradCompilerInstance):
        def end_capture(self, outputs):
            theirs, compiled = super().end_capture(outputs)

            def runs(compiled_fn, *args):
                known = dict(zip(("inputs", "sizes", "scalars", "hooks"), args, strict=False))
                return theirs(lambda *_: self.here(compiled_fn, *args), *(known[name] for name in names[1:]))

            return runs, compiled

    monkeypatch.setattr(compiled_autograd, "AutogradCompilerInstance", InForce)
    monkeypatch.setattr(compiled_autograd, "_disable", contextlib.nullcontext)  # what 2.6 added
    torch._C._dynamo.compiled_autograd.clear_cache()
    yield module
    torch._C._dynamo.compiled_autograd.clear_cache()
    assert module.in_compiled_autograd_region is False


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


@needs_a_wheel
@pytest.mark.parametrize("release", WHEELS)
def test_the_code_of_a_release_has_the_recorded_verdict(patch, release):
    """So says the probe of its own class; with what 2.6 added it is FIXED."""
    (recorded,) = [row.verdict for row in ATLAS.of(PATCH) if row.releases == {"torch": release}]
    texts = {source(release): recorded}
    if "return compiled_fn(" in source(release):
        texts[quieted(source(release))] = "FIXED"
    for text, verdict in texts.items():
        module = ModuleType("compiled_autograd")
        tree = ast.parse(text)
        names = ("AutogradCompilerInstance", "disable")
        tree.body = [node for node in tree.body if getattr(node, "name", "") in names]
        vars(module).update(vars(compiled_autograd))
        exec("from __future__ import annotations\n" + ast.unparse(tree), vars(module))
        assert patch.probe(module) is Verdict[verdict]


@needs_a_wheel
def test_a_backward_inside_is_captured_again_without_the_repair(old):
    """This torch's engine refuses it by name; that of old releases did it."""
    with pytest.raises(NotImplementedError, match="compiled autograd within another compiled autograd call"):
        gradient(nested)


@needs_a_wheel
def test_with_the_repair_it_is_captured_once(old, patch):
    """One graph, and the gradient of eager mode; afterwards compiled autograd is in force again."""
    expected, _ = gradient(nested, compiled=False)
    assert patch.probe(old) is Verdict.AFFECTED
    changes = Changes()
    patch.repair(old, changes)
    for graphs in (1, 0, 0):  # the later ones find it in torch's cache
        found, captured = gradient(nested)
        assert torch.equal(found, expected)
        assert captured == graphs
    with compiled_autograd._enable(lambda graph: graph):
        nested(torch.ones(3, requires_grad=True)).sum().backward()
        assert compiled_autograd.compiled_autograd_enabled
    assert not compiled_autograd.compiled_autograd_enabled
    changes.undo()
    assert not hasattr(old.AutogradCompilerInstance.end_capture, "__wrapped__")


@needs_a_wheel
def test_what_the_old_function_does_it_still_does(old, patch):
    """It is wrapped and not rewritten: in 2.5 it marks that it runs, which what it runs can see."""
    patch.repair(old, Changes())
    seen = []

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x.clone()

        @staticmethod
        def backward(_, grad):
            seen.append(old.in_compiled_autograd_region)
            return grad

    gradient(lambda x: checkpoint(Looks.apply, x, use_reentrant=True))
    assert seen == ["in_compiled_autograd_region = True" in old.text]


def rewrites(old):
    """As a tool does that compiles what it finds in the source once more."""
    old.AutogradCompilerInstance.end_capture = built(quieted(old.text), vars(old))


def wraps(old):
    """As a tool does that goes around what it finds."""
    original = old.AutogradCompilerInstance.end_capture

    def end_capture(self, outputs):
        run, compiled = original(self, outputs)

        def quiet(*args):
            with old.disable():
                return run(*args)

        return quiet, compiled

    old.AutogradCompilerInstance.end_capture = end_capture


@needs_a_wheel
@pytest.mark.parametrize("tool", [rewrites, wraps])
@pytest.mark.parametrize("first", [True, False])
def test_a_tool_that_repairs_it_too_is_not_fought(old, patch, tool, first):
    """Before us it is seen and left alone; after us its function stays, and the graph is captured once."""
    changes = Changes()
    if first:
        tool(old)
        assert patch.probe(old) is Verdict.FIXED
    else:
        patch.repair(old, changes)
        tool(old)
        assert patch.probe(old) is Verdict.FIXED
    theirs = old.AutogradCompilerInstance.end_capture
    found, graphs = gradient(nested)
    assert torch.equal(found, gradient(nested, compiled=False)[0])
    assert graphs == 1
    with contextlib.nullcontext() if first else pytest.raises(CannotRevert):
        changes.undo()
    assert old.AutogradCompilerInstance.end_capture is theirs


@needs_a_wheel
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
