"""Renders the patches as Markdown: the README's table, and the docs' catalogue, a page for each patch.

``python docs/render_catalogue.py`` prints the table; with ``--write`` it renews all that is made from the
patches: the table in README.md, the sets of targets, mypy's list of upstreams, and what is generated for the
docs. Building these renews the latter by itself.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import render_atlas
import render_sources

from zoo_hooks import catalogue
from zoo_hooks.model import Patch
from zoo_hooks.releases import fixed_in
from zoo_hooks.tool import atlas, cli
from zoo_hooks.tool.atlas import Atlas

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
TESTS = HERE.parent / "tests"
FAULTS = (
    *("test_harmless", "test_faults", "test_imports", "test_startup"),
    *("test_imports_property", "test_concurrency_property"),
)
KNOWN = (
    "peft/prompt-learning-generate",
    "peft/shadow-cache-dropped",
    "transformers/gemma4-no-cache-shared-kv",
    "transformers/gemma4-mlp-fp16",
    "transformers/gemma4-reentrant-checkpointing",
    "transformers/cache-static-zero-shared",
    "transformers/wandb-broken",
    "peft/hybrid-cache-import",
    "trl/warnings-issued",
    "vllm/guided-decoding-params",
)
"""What the README shows: bugs that many have met, the silent ones first."""
BEGIN, END = "<!-- patches -->\n", "<!-- /patches -->"


def table(patches: Iterable[Patch]) -> str:
    """One row for each patch that is widely known: what a user gains, and on which releases."""
    known = {patch.id: patch for patch in patches}
    rows = [
        (known[one].title, known[one].severity, " ".join(f"`{claim}`" for claim in known[one].affects))
        for one in KNOWN
    ]
    shown = _table(("The bug that goes away", "Severity", "Releases with it"), rows).strip()
    return f"{shown}\n\nThese are {len(KNOWN)} of {len(known)}. `zoo-hooks list` shows all."


def pages(patches: Iterable[Patch], measured: Atlas) -> dict[str, str]:
    """The catalogue, by file: an index with one table, and a page for each patch."""
    patches = list(patches)
    made = {f"catalogue/{patch.id}.md": _entry(patch, measured) for patch in patches}
    return {"catalogue.md": _index(patches, measured), **made}


def _index(patches: list[Patch], measured: Atlas) -> str:
    rows = []
    for patch in patches:
        claims = " ".join(f"`{claim}`" for claim in patch.affects)
        newest = "".join(row.verdict for row in measured.of(patch.id)[-1:])
        rows.append((f"[{patch.id}](catalogue/{patch.id}.md)", patch.title, patch.severity, claims, newest))
    head = ("Patch", "The bug that goes away", "Severity", "Releases with it", "The newest release")
    text = "All patches of this release. The [atlas](atlas.md) shows them against releases of the libraries."
    tree = "\n".join(["```{toctree}", ":hidden:", "", *(f"catalogue/{patch.id}" for patch in patches), "```"])
    return "\n\n".join(("# Catalogue", text, _table(head, rows).strip(), tree)) + "\n"


def with_table(readme: str, rendered: str) -> str:
    """The README with this table between its two markers."""
    head, _, rest = readme.partition(BEGIN)
    _, marker, tail = rest.partition(END)
    if not marker:
        raise ValueError(f"no {BEGIN.strip()} … {END} in the README")
    return f"{head}{BEGIN}\n{rendered}\n{END}{tail}"


def faults() -> str:
    """The faults that were tried on start-up and engine, as the tests that hold them say it themselves."""
    rows = []
    for name in FAULTS:
        tree = ast.parse((TESTS / f"{name}.py").read_text(encoding="utf-8"))
        for test in tree.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                title = test.name.removeprefix("test_").replace("_", " ")
                rows.append((title, " ".join((ast.get_docstring(test) or "").split()), f"`{name}`"))
    text = (
        "What a shim that runs in every process may not do, and what was tried. Each row is a test, "
        "most of them in many variants, that was red when written, or that has to print with the hooks "
        "what it prints without. This page is generated from them."
    )
    untried = (
        "The tests run on CPython 3.10 to 3.13 on Linux. Free-threaded builds, CPython 3.14 and 3.15, PyPy, "
        "Windows and macOS were not tried. Left to Python itself are two hangs that it has without "
        "zoo-hooks too: a forked child that imports what a thread of its parent was importing, and, seen on "
        "3.12, a fork beside threads whose DeprecationWarning is shown while one of them imports `linecache`."
    )
    tried = _table(("What holds", "What was tried", "Test"), rows)
    parts = ("# Faults that were tried", text, tried, "## What was not tried", untried)
    return "\n\n".join(parts) + "\n"


def write_generated() -> None:
    """Renew what is generated; an unchanged file is not touched, so that Sphinx need not read it again."""
    patches = list(catalogue.everything())
    texts = {
        "faults.md": faults(),
        **pages(patches, atlas.read()),
        "generated/atlas.html": render_atlas.grid(patches, atlas.read()),
        "generated/help.txt": _output("--help"),
        "generated/show.txt": _output("show", "transformers/cache-static-zero-shared"),
    }
    for name, text in texts.items():
        file = HERE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for file in (HERE / "catalogue").rglob("*.md"):
        if file.relative_to(HERE).as_posix() not in texts:
            file.unlink()  # the page of a patch that is gone


def _output(*arguments: str) -> str:
    """What the command line prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main(list(arguments))
    return printed.getvalue()


def _entry(patch: Patch, measured: Atlas) -> str:
    first = measured.first_seen(patch.id)
    retired = " or ".join(f"`{end}`" for end in fixed_in(patch)) or "no release yet"
    facts = [
        f"- Severity: {patch.severity}",
        f"- Releases with it: {' '.join(f'`{claim}`' for claim in patch.affects)}",
        f"- First seen on {atlas.words(first) if first else 'no release yet'}; fixed in {retired}",
        f"- Repaired when {' or '.join(f'`{target}`' for target in patch.targets)} is imported"
        + (", before its body runs" if patch.when == "before" else ""),
        f"- What is measured: {patch.measures}",
        *(f"- Upstream: <{link}>" for link in patch.links),
    ]
    if patch.requires:
        facts.insert(4, f"- Waits for {' and '.join(f'`{name}`' for name in patch.requires)}")
    facts += render_atlas.facts(patch, measured)
    in_atlas = f'<a href="../../atlas.html#{patch.id}">This patch in the atlas</a>'
    head, rows = render_atlas.verdicts(patch, measured)
    parts = [
        f"# {patch.id}",
        f"{patch.title}.",
        "\n".join(facts),
        in_atlas,
        _markdown(catalogue.case_report(patch)),
    ]
    if rows:
        parts += ["## Verdicts", _table(head, rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _markdown(report: str) -> str:
    """A case report, whose section titles are underlined and whose code blocks follow ``::``."""
    titled = re.sub(r"^(\w[^\n]*)\n-{3,}$", r"## \1\n", report, flags=re.MULTILINE)
    return re.sub(r"::$", ":", titled, flags=re.MULTILINE)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    made = table(catalogue.everything())
    if sys.argv[1:] == ["--write"]:
        README.write_text(with_table(README.read_text(encoding="utf-8"), made), encoding="utf-8")
        render_sources.write(catalogue.everything())
        write_generated()
    else:
        sys.stdout.write(made)
