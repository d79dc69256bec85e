"""What users can write into ZOO_HOOKS, and what happens if it is wrong."""

from __future__ import annotations

import difflib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_hooks import catalogue, settings

STATIC, DYNAMIC = "transformers/cache-static-zero-shared", "transformers/cache-dynamic-zero-shared"


def read(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOOKS", text)
        return settings.read()


@pytest.mark.parametrize("text", ["0", "off", "false", "no", " OFF ", "No", "none", "disabled"])
def test_off_words_switch_everything_off(text):
    """In any case, with spaces around."""
    assert read(text).off
    assert read(text).refusal(STATIC) == "switched off by ZOO_HOOKS"


@pytest.mark.parametrize("text", ["", "1", "on", "true", "yes", " Yes ", "all"])
def test_on_words_are_the_default(text):
    """As if the variable were not set."""
    assert read(text) == settings.Settings()


@pytest.mark.parametrize(
    ("text", "applied"),
    [
        ("cache-*", {STATIC, DYNAMIC}),
        ("cache", {STATIC, DYNAMIC}),
        (STATIC, {STATIC}),
        (STATIC.replace("-", "_"), {STATIC}),
        (f"-{STATIC}", {DYNAMIC}),
        ("-cache-*", set()),
        (f"cache-*,-{STATIC}", {DYNAMIC}),
        (f"dry-run, {STATIC}", {STATIC}),
        ("DryRun", {STATIC, DYNAMIC}),
        ("Cache-Static*", {STATIC}),
        ("-cache-static", {DYNAMIC}),
        ("-transformers/*", set()),
        ("-transformers", set()),
        ("-peft/*", {STATIC, DYNAMIC}),
        ("transformers/cache-static*", {STATIC}),
        ("peft/cache-static*,cache-dynamic*", {DYNAMIC}),
        ("cache-static-zero-shared", {STATIC}),
        ("transformers,-cache-static-zero-shared", {DYNAMIC}),
    ],
)
def test_words_select_patches(text, applied):
    """By id, how it begins, or upstream; only these, all but these, and both, also in a dry run."""
    current = read(text)
    assert {p for p in (STATIC, DYNAMIC) if not current.refusal(p)} == applied
    assert current.dry_run == ("dry" in text.lower())


@pytest.fixture
def said(monkeypatch):
    """What is warned of."""
    messages = []
    settings._parse.cache_clear()
    monkeypatch.setattr(settings.notices, "say", lambda level, message: messages.append((level, message)))
    yield messages
    settings._parse.cache_clear()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("of", "off"),
        ("2", None),
        ("dry-rum", "dry-run"),
        ("cache-statc-zero-shared", STATIC),
        ("gema4-*", "gemma4-*"),
        ("-gema4-*", "-gemma4-*"),
        (f"-{STATIC},-nonsense", None),
        (f"nonsense,-{STATIC}", None),
        ("gemma3n-no-cache-shared-kv", "mlx_lm/gemma3n-no-cache-shared-kv"),
        ("-gemma3n-no-cache-shared-kv", "-mlx_lm/gemma3n-no-cache-shared-kv"),
        ("petf/*", "peft/*"),
    ],
)
def test_what_is_not_understood_switches_everything_off(text, meant, said):
    """Who sets the variable wants less. One warning names word, meaning, and what holds."""
    assert read(text) == read(text)
    assert all(read(text).refusal(patch_id) for patch_id in catalogue.ids())
    ((level, message),) = said
    assert level == logging.WARNING
    assert "nothing is repaired" in message
    assert meant is None or f"did you mean {meant!r}" in message
    assert settings.FORMS in message


def test_a_good_word_beside_one_that_is_not_understood_is_obeyed(said):
    """It selects what it says, and the warning says that."""
    assert read(f"{STATIC},nonsense").only == (STATIC,)
    assert f"only {STATIC} is repaired" in said[0][1]


def test_a_hostile_value_is_parsed_once_and_told_in_a_line(said, monkeypatch):
    """10,000 words that mean nothing cost one look, near ids of those named, and a message to be read."""
    compared = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda *some, **_: compared.append(some) or [])
    text = ",".join(f"word{n}" for n in range(10_000))
    for _ in range(50):
        assert all(map(read(text).refusal, catalogue.ids()))
    ((_, message),) = said
    assert len(message) < 1000
    assert settings._parse.cache_info().misses == 1
    assert len(compared) <= 2 * settings.HINTS


@given(st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_no_text_raises_or_repairs_what_it_does_not_name(text):
    """A text of unknown words repairs nothing; one that is on or empty repairs all."""
    current = read(text)
    chosen = {patch_id for patch_id in catalogue.ids() if not current.refusal(patch_id)}
    words = {word.strip().lower() for word in text.split(",") if word.strip()}
    known = settings.ON_WORDS | settings.DRY_RUN_WORDS
    named = any(settings._ids(word.removeprefix("-")) for word in words - known)
    assert not chosen or words <= known or named


@pytest.mark.parametrize(("text", "strict"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_strict_mode_is_a_switch(text, strict, monkeypatch):
    """On and off words, as in ZOO_HOOKS."""
    monkeypatch.setenv("ZOO_HOOKS_STRICT", text)
    assert settings.strict() is strict


def test_a_wrong_strict_word_is_warned_of(monkeypatch, said):
    """And does not raise users' imports."""
    monkeypatch.setenv("ZOO_HOOKS_STRICT", "maybe")
    assert settings.strict() is False
    assert "'maybe' is neither 1 nor 0" in said[0][1]


def test_the_second_half_of_an_id_will_do_where_it_is_unambiguous():
    """With either kind of dash, and either name of the upstream; several are all named."""
    assert catalogue.get("cache_static-zero-shared").id == STATIC
    assert catalogue.get("mlx-vlm/gemma4-padding-mask").id == "mlx_vlm/gemma4-padding-mask"
    assert set(catalogue.named("dill")) == {one for one in catalogue.ids() if one.startswith("dill/")}
    for word in ("torchcodec-broken", "*/torchcodec-broken"):
        with pytest.raises(
            catalogue.UnknownPatch, match="datasets/torchcodec-broken, transformers/torchcodec"
        ):
            catalogue.get(word)
