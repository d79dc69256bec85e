"""Which known bug caused a traceback, and why zoo-hooks did not repair it. No upstream is imported."""

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
"""How similar an error has to be to the text of a bug, so that the bug is named as the nearest."""


class Trace(NamedTuple):
    """The parts of a traceback, or of its last line only."""

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
    """Parse a text."""
    text = ADDED.sub("", text.replace("\r\n", "\n"))
    frames = list(FRAME.finditer(text))
    files = tuple(frame["file"] or frame["shown"] for frame in frames)
    names = (frame["name"] or frame["call"] or "" for frame in frames)
    dotted = [re.sub(r"[/\\]+", ".", file.removesuffix(".py")) for file in files]
    dotted += LAZY.findall(text)
    functions = frozenset(name.rpartition(".")[2] for name in names)
    return Trace(SOURCE.sub("", text), functions, tuple(f".{one}." for one in dotted), files)


def explained(trace: Trace) -> list[Patch]:
    """The patches with a symptom that matches the text; the longest symptom comes first."""
    found = []
    for patch in catalogue.everything():
        shown = [symptom for symptom in patch.symptoms if shows(trace, symptom)]
        if shown:
            found.append((max(map(len, shown)), patch))
    return [patch for _, patch in sorted(found, key=lambda pair: -pair[0])]


def shows(trace: Trace, symptom: str) -> bool:
    """Whether the text of a symptom is in the error, and each of its frames in the traceback."""
    words, *frames = (part.strip() for part in symptom.split("@"))
    return _says(trace, words) and all(
        frame in trace.functions or any(f".{frame}." in module for module in trace.modules)
        for frame in frames
    )


def nearest(trace: Trace) -> Patch | None:
    """The patch with the most similar error, None if none is similar."""
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
    """Why zoo-hooks did not repair a bug, judged by this environment and by the frames of the traceback."""
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
    """The site-packages folder of the frames, if this zoo-hooks is not installed there."""
    found = [re.match(r"((?:/|[A-Z]:).*?[\\/](?:site|dist)-packages)[\\/]", file) for file in trace.files]
    places = [Path(match[1]) for match in found if match]
    here = [Path(place).resolve() for place in sys.path if place]
    return next((place for place in reversed(places) if place.resolve() not in here), None)


def _says(trace: Trace, words: str) -> bool:
    """Whether the error contains the words; ``*`` matches anything in the same line."""
    return bool(re.search(".*".join(map(re.escape, words.split("*"))), trace.messages))
