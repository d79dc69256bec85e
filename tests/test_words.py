"""Texts that users read are plain: no phrase that readers stumbled over, no sentence too long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoo_hooks import catalogue

ROOT = Path(__file__).parents[1]
INSTEAD = {
    r"\b(is|are|was|were) told of\b": "gets a warning",
    r"\bof themselves\b": "leave it out",
    r"\b[Ii]t is so\b": "this holds",
    r"\bpassed over\b": "ignored",
    r"\bhas no more\b": "has removed",
    r"\bthat see\b": "vision models",
    r"\bby its new name\b": "under its new name",
    r"\bunlike (those|most)\b": "that differ from",
    r"\bthat guides\b": "guided decoding",
    r"\bretired by\b": "fixed in",
    r"\bmend(s|ed|ing)?\b": "fix (upstream), repair (zoo-hooks)",
    r"\(right:": "(expected:",
    r"\bhas mended\b": "has fixed",
}
LONGEST = 45
"""Words of a sentence, or of a part between colons and semicolons."""
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
]
PATCHES = catalogue.everything()


def said(patch):
    return "\n\n".join((catalogue.case_report(patch), patch.title, patch.measures))


TEXTS = {
    page.name: page.read_text(encoding="utf-8")
    for page in PAGES
    if page.name not in ("catalogue.md", "faults.md")
}
TEXTS |= {patch.id: said(patch) for patch in PATCHES}


@pytest.mark.parametrize("name", TEXTS)
def test_no_phrase_is_there_that_readers_have_stumbled_over(name):
    """The message says what to write instead."""
    found = [
        f"{match.group()!r}: write {better!r}"
        for phrase, better in INSTEAD.items()
        for match in re.finditer(phrase, TEXTS[name])
    ]
    assert not found


@pytest.mark.parametrize("name", TEXTS)
def test_no_sentence_is_too_long(name):
    """A reader at 2 a.m. has to get to its end."""
    plain = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    parts = re.split(r"(?<=[.:;?!])\s+|\n\n|\n- |\|", plain)
    long = [" ".join(part.split()) for part in parts if len(part.split()) > LONGEST]
    assert not long, "divide it"
