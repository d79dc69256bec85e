"""The house rules, over the whole registry: each holds for every patch, or is red."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import HERE, seen
from packaging.requirements import Requirement

import zoo_hooks
from zoo_hooks import catalogue, releases

PACKAGE = Path(zoo_hooks.__file__).parent
PATCHES = catalogue.everything()
SOURCES = sorted(PACKAGE.rglob("*.py"))
BUILT_IN = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
every_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.id)
every_source = pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))


def tree_of(patch):
    return ast.parse(inspect.getsource(sys.modules[patch.module]))


def imports(tree, *, top=False):
    """Names of the modules that are imported; ``top`` for those outside functions only."""
    nodes = tree.body if top else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_patch_on_disk_can_be_imported():
    """The registry is what lies in zoo_hooks/patches."""
    assert not catalogue.broken
    assert [patch.id for patch in PATCHES]
    assert {patch.id for patch in PATCHES} == set(catalogue.ids())


def test_an_id_is_where_the_file_lies():
    """Upstream and bug; the bug does not say the upstream's name again."""
    lying = {
        f"{file.parent.name}/{file.stem}".replace("_", "-")
        for file in (PACKAGE / "patches").glob("*/[!_]*.py")
    }
    assert {patch.id.replace("_", "-") for patch in PATCHES} == lying
    assert not [one for one in lying if one.partition("/")[2].startswith(f"{one.partition('/')[0]}-")]


def test_the_target_set_is_that_of_the_patches_on_disk():
    """Adding a patch edits the set in the start-up module and nothing else."""
    every = {target for patch in PATCHES for target in patch.targets}
    assert {(name.partition(".")[0], name) for name in every} == {
        (root, name) for root, names in zoo_hooks.TARGETS.items() for name in names.split()
    }
    assert all(map(zoo_hooks.is_target, every))
    assert not any(
        map(zoo_hooks.is_target, ["json", "transformers", "transformers.cache_util", "", "cache_utils"])
    )
    early = {target for patch in PATCHES for target in patch.targets if patch.when == "before"}
    assert early == zoo_hooks.BEFORE


@every_patch
def test_a_patch_is_found_by_the_targets_that_its_file_names(patch):
    """Only files that hold a target's name as a string are loaded for it."""
    assert patch in catalogue.for_target(patch.targets[0])
    source = Path(sys.modules[patch.module].__file__).read_text()
    assert all(f'"{target}"' in source for target in patch.targets)


@every_patch
def test_a_patch_stands_with_the_upstream_that_it_repairs(patch):
    """At least one of its targets belongs to the package that its folder names."""
    assert patch.upstream in {target.partition(".")[0] for target in patch.targets}


@every_patch
def test_a_patch_has_a_test_file_and_a_changelog_entry(patch):
    """One bug, one module, one test file, one entry."""
    module = patch.module.rpartition(".")[2]
    assert (HERE / "patches" / patch.upstream / f"test_{module}.py").is_file()
    entries = re.findall(
        r"^- (`.+?):\s", (HERE.parent / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert " ".join(entries).count(f"`{patch.id}`") == 1


@every_patch
def test_the_docstring_is_a_case_report(patch):
    """A summary line, then Symptom, Cause and Repair, none of them empty."""
    report = catalogue.case_report(patch)
    headings = re.findall(r"^(\w+)\n-+$", report, re.MULTILINE)
    assert headings == ["Symptom", "Cause", "Repair"]
    assert all(len(part.strip()) > 40 for part in re.split(r"^\w+\n-+$", report, flags=re.MULTILINE))


@every_patch
def test_the_record_is_complete(patch):
    """Title, measure, links, symptoms whose frames are names, and a claim that packaging can read."""
    assert patch.title
    assert len(patch.title) <= 100
    assert "expected:" in patch.measures
    assert patch.links
    assert all(link.startswith("https://") for link in patch.links)
    frames = [frame.strip() for symptom in patch.symptoms for frame in symptom.split("@")[1:]]
    assert all(part.isidentifier() for frame in frames for part in frame.split("."))
    assert {Requirement(claim).name for claim in patch.affects} >= {patch.upstream.replace("_", "-")}


@every_patch
def test_a_patch_does_not_defend_itself(patch):
    """No try, no logging, no environment variable, no version: the engine does that for all."""
    tree = tree_of(patch)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    assert not {"logging", "os", "warnings", "importlib.metadata", "importlib_metadata", "packaging"} & set(
        imports(tree)
    )
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "__version__"
    ]


def reached(tree, name):
    """A function of a module and those of the module that it names, directly or through them."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found, todo = {}, {name}
    while todo:
        name = todo.pop()
        found[name] = functions[name]
        named = {node.id for node in ast.walk(found[name]) if isinstance(node, ast.Name)}
        todo |= (named & functions.keys()) - found.keys()
    return found.values()


def caught(function):
    """Names of what a function catches or suppresses, with what catches everything by itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.ExceptHandler):
            yield from names_in(node.type) if node.type else ["BaseException"]
        elif isinstance(node, ast.Call) and names_in(node.func)[-1:] == ["suppress"]:
            yield from (name for argument in node.args for name in names_in(argument))
        elif isinstance(node, ast.Call) and names_in(node.func)[-1:] == ["tried"]:
            yield "Exception"


def names_in(expression):
    """Names and attributes of an expression, in the order in which they are read."""
    nodes = sorted(ast.walk(expression), key=lambda node: getattr(node, "end_col_offset", 0))
    return [getattr(node, "attr", getattr(node, "id", "")) for node in nodes
            if isinstance(node, (ast.Attribute, ast.Name))]  # fmt: skip


@every_patch
def test_a_canary_swallows_nothing_that_a_repair_may_raise(patch):
    """What it catches is an exception of its own or of a library, made for the case; never a built-in one."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(patch.canary)))
    for function in reached(tree, patch.canary.__name__):
        assert not BUILT_IN & set(caught(function)), function.name


@every_patch
def test_a_canary_that_makes_a_trainer_says_that_accelerate_is_missing(patch):
    """Trainer's own ImportError does not tell verify which module cannot be found."""
    source = inspect.getsource(patch.canary)
    if patch.upstream == "transformers" and re.search(r"\b(Trainer|TrainingArguments)\(", source):
        assert "import accelerate" in source


@every_patch
def test_a_probe_takes_no_error_of_its_own_call_for_the_symptom(patch):
    """It catches nothing built-in but through symptom(), with words of the bug's own; others are UNKNOWN."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(patch.probe)))
    for function in reached(tree, patch.probe.__name__):
        assert not BUILT_IN & set(caught(function)), function.name
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and names_in(call.func)[-1:] == ["symptom"]:
                words = call.args[1]
                assert not isinstance(words, ast.Constant) or len(words.value.split()) > 1, ast.unparse(call)


def test_what_a_canary_catches_is_seen_in_each_form():
    """Handlers, suppress under any name of its module, what catches everything; and classes of one's own."""
    source = """
        def canary():
            with suppress(pickle.UnpicklingError, _Mine):
                helper()

        def helper():
            with contextlib.suppress(ValueError, OSError):
                _calls.tried(lambda: 1)
            try:
                other()
            except (KeyError, torch.Error):
                pass

        def other():
            try:
                helper()
            except:
                pass

        def aside():
            with suppress(TypeError):
                pass
    """
    functions = {one.name: one for one in reached(ast.parse(textwrap.dedent(source)), "canary")}
    assert {name: BUILT_IN & set(caught(one)) for name, one in functions.items()} == {
        "canary": set(),
        "helper": {"ValueError", "OSError", "Exception", "KeyError"},
        "other": {"BaseException"},
    }


@every_patch
def test_a_patch_imports_upstreams_only_inside_functions(patch):
    """At its top stand the standard library, model, changes and what it shares with its neighbours."""
    own = {"zoo_hooks.model", "zoo_hooks.changes", "zoo_hooks.patches", patch.module.rpartition(".")[0]}
    for name in imports(tree_of(patch), top=True):
        assert name in own or name.partition(".")[0] in sys.stdlib_module_names, name


BUILDS_ON = {"peft": {"transformers"}, "trl": {"transformers", "peft", "vllm"}, "mlx_vlm": {"mlx_lm"}}
"""Whose helpers a patch may use beside those of its own upstream; all share those in ``patches`` itself."""


@every_source
def test_a_patch_takes_helpers_from_what_its_upstream_builds_on(file):
    """A helper that others want too belongs into ``zoo_hooks/patches``; asking another patch is no help."""
    upstream = file.parent.name
    taken = {
        match[1]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (match := re.match(r"zoo_hooks\.patches\.([a-z]\w*)\._", f"{node.module}.{alias.name}"))
    }
    others = taken - {upstream, *BUILDS_ON.get(upstream, ())}
    # vllm/guided-decoding-params is about what TRL asks of vLLM, so its canary is a step of TRL's
    assert others == ({"trl"} if file.stem == "guided_decoding_params" else set())


@every_patch
def test_upstreams_are_changed_only_through_changes(patch):
    """A repair neither assigns to attributes of what it is handed nor calls setattr."""
    for function in ast.walk(tree_of(patch)):
        if isinstance(function, ast.FunctionDef) and function.name == "repair":
            for node in ast.walk(function):
                assert not (isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load))
                assert not (isinstance(node, ast.Name) and node.id in ("setattr", "delattr"))


@every_patch
def test_the_verdict_on_real_releases_is_recorded_on_both_sides(patch):
    """At least one release with the bug; and one without it, unless it is open in the newest."""
    verdicts = {verdict for _, verdict in seen(patch)}
    assert "FAILED" not in verdicts
    assert "AFFECTED" in verdicts
    assert "FIXED" in verdicts or not releases.fixed_in(patch)


@every_patch
def test_probing_and_repairing_use_no_random_numbers(patch):
    """Seeded runs stay as they are: ``random`` is not named outside the canary."""
    for node in ast.walk(tree_of(patch)):
        if isinstance(node, ast.FunctionDef) and node.name in ("probe", "repair"):
            names = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            assert not names & {"rand", "randn", "randint", "manual_seed", "random"}


@every_source
def test_files_stay_small(file):
    """None has more than 200 lines without a reason in its docstring."""
    text = file.read_text()
    assert len(text.splitlines()) <= 200 or "more than 200 lines, for" in ast.get_docstring(ast.parse(text))


@every_source
def test_a_broad_except_keeps_nothing_of_the_users(file):
    """It raises again, or passes on what came from outside; the few others say why they need not."""
    source = file.read_text()
    for handler in ast.walk(ast.parse(source)):
        if isinstance(handler, ast.ExceptHandler):
            caught = ast.unparse(handler.type) if handler.type else "BaseException"
            calls = {
                ast.unparse(call.func).rpartition(".")[2]
                for call in ast.walk(handler)
                if isinstance(call, ast.Call)
            }
            raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
            if caught in ("Exception", "BaseException") and not raises | bool(
                calls & {"pass_on", "is_our_own"}
            ):
                assert "#" in source.splitlines()[handler.lineno - 1], ast.unparse(handler)
                assert file.relative_to(PACKAGE).parts[0] != "patches"


@every_source
def test_nothing_opens_a_connection(file):
    """No module of ours imports what could; the page of threats says so."""
    opening = {
        "aiohttp",
        "ftplib",
        "http",
        "httpx",
        "requests",
        "smtplib",
        "socket",
        "ssl",
        "urllib",
        "xmlrpc",
    }
    assert not opening & {name.partition(".")[0] for name in imports(ast.parse(file.read_text()))}


def test_imports_go_one_way():
    """Start-up, then engine, then catalogue and ledger, then patches, then model and changes."""
    order = [
        "safety",
        "notices",
        "layers",
        "changes",
        "model",
        "claims",
        "patches",
        "catalogue",
        "settings",
        "ledger",
        "engine",
        "releases",
        "reports",
        "controls",
    ]
    for level, name in enumerate(order):
        file = PACKAGE / name / "__init__.py" if name == "patches" else PACKAGE / f"{name}.py"
        tree = ast.parse(file.read_text())
        used = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "zoo_hooks":
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zoo_hooks."):
                used.add(node.module.split(".")[1])
        assert not used & set(order[level:]), (name, used)


def test_the_start_up_module_imports_what_is_there_already():
    """Only sys; os, which is loaded too, inside the function that reads the environment."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert set(imports(tree, top=True)) == {"sys"}


def test_what_runs_in_a_users_process_does_without_the_tool():
    """``zoo_hooks.tool`` is for those who ask; only ``python -m zoo_hooks`` leads there."""
    for file in SOURCES:
        if file.parent.name != "tool" and file.name != "__main__.py":
            assert "zoo_hooks.tool" not in file.read_text(), file
            assert "import tool" not in file.read_text(), file
