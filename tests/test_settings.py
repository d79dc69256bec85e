"""What users can write into ZOO_HOOKS, and what happens if it is wrong."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_hooks import catalogue, settings

STATIC, DYNAMIC = "cache-static-zero-shared", "cache-dynamic-zero-shared"


def read(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOOKS", text)
        return settings.read()


@pytest.mark.parametrize("text", ["0", "off", "false", "no", " OFF ", "No"])
def test_off_words_switch_everything_off(text):
    """In any case, with spaces around."""
    assert read(text).off
    assert read(text).refusal(STATIC) == "switched off by ZOO_HOOKS"


@pytest.mark.parametrize("text", ["", "1", "on", "true", "yes", " Yes "])
def test_on_words_are_the_default(text):
    """As if the variable were not set."""
    assert read(text) == settings.Settings()


@pytest.mark.parametrize(
    ("text", "applied"),
    [
        ("cache-*", {STATIC, DYNAMIC}),
        (STATIC, {STATIC}),
        (f"-{STATIC}", {DYNAMIC}),
        ("-cache-*", set()),
        (f"cache-*,-{STATIC}", {DYNAMIC}),
        (f"dry-run, {STATIC}", {STATIC}),
        ("Cache-Static*", {STATIC}),
    ],
)
def test_patterns_select_patches(text, applied):
    """Only these, all but these, and both together; a dry run can be one of a selection."""
    current = read(text)
    assert {p for p in (STATIC, DYNAMIC) if not current.refusal(p)} == applied
    assert current.dry_run == ("dry-run" in text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("of", "off"), ("dryrun", "dry-run"), ("cache-statc-zero-shared", STATIC), ("gema4-*", "gemma4-*")],
)
def test_an_unknown_word_is_warned_of_once_and_the_default_stays(text, meant, caplog):
    """The warning names the word, what it may have meant, and the valid forms."""
    settings._told.clear()
    assert read(text) == read(text) == settings.Settings()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert repr(text) in record.message
    assert repr(meant) in record.message
    assert settings.FORMS in record.message


def test_an_unknown_word_loses_nothing_of_the_rest(caplog):
    """The good part of a list stays in force."""
    settings._told.clear()
    assert read(f"-{STATIC},-nonsense").without == (STATIC,)
    assert "'-nonsense'" in caplog.text


@given(st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_no_text_raises_or_switches_patches_off_by_accident(text):
    """Whatever stands there, every word that matches no patch is ignored."""
    current = read(text)
    for patterns in (current.only, current.without):
        assert all(any(settings.fnmatchcase(known, p) for known in catalogue.ids()) for p in patterns)


@pytest.mark.parametrize(("text", "strict"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_strict_mode_is_a_switch(text, strict, monkeypatch):
    """On and off words, as in ZOO_HOOKS."""
    monkeypatch.setenv("ZOO_HOOKS_STRICT", text)
    assert settings.strict() is strict


def test_a_wrong_strict_word_is_warned_of(monkeypatch, caplog):
    """And does not raise users' imports."""
    settings._told.clear()
    monkeypatch.setenv("ZOO_HOOKS_STRICT", "maybe")
    assert settings.strict() is False
    assert "'maybe' is neither 1 nor 0" in caplog.text
