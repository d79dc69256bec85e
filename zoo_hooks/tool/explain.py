"""Which known bug a traceback shows, and why the hooks did not repair it; no upstream is imported."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import NamedTuple

from packaging.utils import canonicalize_name

from zoo_hooks import catalogue
from zoo_hooks.model import Patch
from zoo_hooks.releases import claimed_upstreams
from zoo_hooks.tool.audit import Answer

# What is put before each line: colours, the rank or node of a process, the frame of a box
ADDED = re.compile(
    r"\x1b\[[0-9;]*m|^(?:stderr: )?\[[\w-]+\]:? ?|^[ \t]*\(\w+ pid=[^)]*\) ?|^[│|] ", re.MULTILINE
)
FRAME = re.compile(
    r'^[ \t]*File "(?P<file>[^"\n]+)", line \d+(?:, in (?P<name>\S+))?'  # Python's
    # a notebook's, Colab's, rich's
    r"|^(?:File )?\[?(?P<shown>[~/.\w][^\n:\]]*\.py)\]?(?::\d+|\(http[^)\n]*\)),? in (?P<call>[\w.<>]+)",
    re.MULTILINE,
)
SOURCE = re.compile(rf"^(?: {{4,}}| *-+> *\d| *\d+ )[^\n]*$|(?:{FRAME.pattern})[^\n]*", re.MULTILINE)
LAZY = re.compile(r"Failed to import (\S+) because")  # as transformers and trl wrap it
NEAR = 0.55
"""How alike an error has to be to the words of a bug to be told of as the nearest."""


class Trace(NamedTuple):
    """What a text says that holds a traceback, or only its last line."""

    messages: str
    """All but the frames and their source lines."""
    functions: frozenset[str]
    modules: tuple[str, ...]
    """The files of the frames, dotted: ``...site-packages.peft.peft_model``."""
    files: tuple[str, ...]

    @property
    def error(self) -> str:
        """The line that names the error."""
        lines = [
            line
            for line in self.messages.splitlines()
            if re.match(r"[\w.]+(Error|Exception|Warning)\b", line)
        ]
        return lines[-1] if lines else next(reversed(self.messages.strip().splitlines()), "")


def read(text: str) -> Trace:
    """Take a text apart."""
    text = ADDED.sub("", text.replace("\r\n", "\n"))
    frames = list(FRAME.finditer(text))
    files = tuple(frame["file"] or frame["shown"] for frame in frames)
    names = (frame["name"] or frame["call"] or "" for frame in frames)
    dotted = [re.sub(r"[/\\]+", ".", file.removesuffix(".py")) for file in files]
    dotted += LAZY.findall(text)
    functions = frozenset(name.rpartition(".")[2] for name in names)
    return Trace(SOURCE.sub("", text), functions, tuple(f".{one}." for one in dotted), files)


def explained(trace: Trace) -> list[Patch]:
    """The patches one of whose symptoms the text shows, those with the longest symptom first."""
    found = []
    for patch in catalogue.everything():
        shown = [symptom for symptom in patch.symptoms if shows(trace, symptom)]
        if shown:
            found.append((max(map(len, shown)), patch))
    return [patch for _, patch in sorted(found, key=lambda pair: -pair[0])]


def shows(trace: Trace, symptom: str) -> bool:
    """Whether the words of a symptom are in the error, and each of its frames in the traceback."""
    words, *frames = (part.strip() for part in symptom.split("@"))
    return _says(trace, words) and all(
        frame in trace.functions or any(f".{frame}." in module for module in trace.modules)
        for frame in frames
    )


def nearest(trace: Trace) -> Patch | None:
    """The patch whose error is most like this one, None if none is."""
    best: Patch | None = None
    level, error = NEAR, trace.error[-200:]
    for patch in catalogue.everything():
        for symptom in patch.symptoms:
            words = symptom.split("@")[0].strip()
            same = difflib.SequenceMatcher(None, words, error, autojunk=False)
            like = 1.0 if words and _says(trace, words) else same.ratio()
            if like > level:
                best, level = patch, like
    return best


def why_not(patch: Patch, answer: Answer, trace: Trace) -> str:
    """Why the hooks did not repair a bug whose error was seen; by this environment, and by the frames."""
    elsewhere = _other_environment(trace)
    if elsewhere and not elsewhere.is_dir():
        return f"the error was raised in {elsewhere}, which is not on this machine; run the command there"
    if elsewhere and not (elsewhere / "zoo_hooks.pth").exists():
        return f"zoo-hooks is not installed in {elsewhere}"
    if elsewhere and answer.asked.python is None:
        return f"the error was raised in {elsewhere}; pass the interpreter of that environment with --python"
    missing = sorted(
        name for name in claimed_upstreams(patch) if canonicalize_name(name) not in answer.asked.pins
    )
    if missing:
        return f"it was raised elsewhere: {' and '.join(missing)} is not installed in {answer.asked.where}"
    finding = next((one for one in answer.findings if one.patch is patch), None)
    if finding is None:
        return f"the releases of {answer.asked.where} do not have this bug; others were installed then"
    return finding.trouble or _too_late(patch)


def _too_late(patch: Patch) -> str:
    way = "restart it" if patch.when == "before" else "restart it, or call zoo_hooks.activate()"
    return (
        f"{patch.targets[0]} was imported before zoo-hooks could see it, for example in a notebook whose "
        f"kernel was running before zoo-hooks was installed ({way}), or ZOO_HOOKS was set in that process"
    )


def _other_environment(trace: Trace) -> Path | None:
    """The site-packages that the frames are of, if it is not where this zoo-hooks is installed."""
    found = [re.match(r"((?:/|[A-Z]:).*?[\\/](?:site|dist)-packages)[\\/]", file) for file in trace.files]
    places = [Path(match[1]) for match in found if match]
    here = [Path(place).resolve() for place in sys.path if place]
    return next((place for place in reversed(places) if place.resolve() not in here), None)


def _says(trace: Trace, words: str) -> bool:
    """Whether the words stand in the error; ``*`` in them is anything in the same line."""
    return bool(re.search(".*".join(map(re.escape, words.split("*"))), trace.messages))
