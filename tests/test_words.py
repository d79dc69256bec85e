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
    r"\bhas the repair itself\b": "fixed in",
    r"\bretire[sd]?\b": "is fixed in",
    r"\bby the way\b": "say where it was found",
    r"\bfor want of\b": "because ... is missing",
    r"\bhas it no more\b": "has removed it",
    r"\bto be had\b": "is available",
    r"\bthat is none\b": "is not a valid ...",
    r"\bnot as it was\b": "was changed",
    r"\bin silence\b": "without an error",
    r"\bof (its|their|one's) own accord\b": "leave it out",
    r"\bhands? off\b": "nothing is changed",
    r"\bcame? to its turn\b": "runs",
    r"\bhad put in\b": "the repair",
    r"\bneeds? (no )?eyes\b": "needs attention",
    r"\bwhere that is possible\b": "if possible",
    r"\bwhat fits\b": "this fits",
    r"\bhooks leave\b": "not repaired by zoo-hooks",
    r"\bcom(es?|ing) to light\b": "appears",
    r"\bcomes to the same\b": "has the same effect",
    r"\btold once\b": "a warning is logged once",
    r"\bwarned of\b": "a warning is logged",
    r"\b(is|are|was|were|be) handed\b": "gets",
    r"\bhand(s|ed|ing)? (on|over|in|back)\b": "pass, return",
    r"\balso where\b": "also if",
    r"\b(nobody|somebody)\b": "name who or what it is",
    r"\bof which one\b": "divide the sentence",
    r"\bseen once\b": "appears after",
    r"\b(stands|stood) (with|above|on|in|for|there|below|behind)\b": "is",
    r"\b(models|code|layers|outputs|hooks|modules?|parts?|trainers) of others\b": "third-party",
    r"\b(is|are) there again\b": "exists again",
    r"\bone's own\b": "its own",
    r"\bas ever\b": "as before",
    r"\bin force\b": "active",
    r"\b(is|are) right\b": "correct",
    r"\btaken for\b": "used as, treated as",
    r", for (it|they|its|their|the|no|that|this)\b": "because",
    r"\banew\b": "again",
}
LONGEST = 32
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
TEXTS["README.md"] = re.sub(r"(?s)<!-- patches -->.*<!-- /patches -->", "", TEXTS["README.md"])  # titles
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
