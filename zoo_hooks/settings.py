"""The variables ``ZOO_HOOKS`` and ``ZOO_HOOKS_STRICT``; read each time, parsed once for each value."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from zoo_hooks import OFF_WORDS, catalogue, notices, switched_off

ON_WORDS = frozenset({"1", "on", "true", "yes", "y", "t", "all", "enable", "enabled"})
DRY_RUN_WORDS = frozenset({"dry-run", "dryrun", "dry_run", "dry"})
FORMS = (
    "0 (off), 1 (on, the default), dry-run, ids or patterns such as peft/*,cache-* (only these patches) "
    "or -peft/*,-cache-* (all but these), or an upstream such as -peft"
)
LONGEST = 4000
"""Characters that are read. All patch ids are half as long."""
HINTS = 3
"""Unknown words of one value that the warning names."""


@dataclass(frozen=True)
class Settings:
    """The parsed variables."""

    off: bool = False
    dry_run: bool = False
    only: tuple[str, ...] | None = None
    """Ids that are selected; None if no word selects any."""
    without: tuple[str, ...] = ()

    def refusal(self, patch_id: str) -> str:
        """Say why a patch is switched off; empty if it is not."""
        if self.off:
            return "switched off by ZOO_HOOKS"
        if patch_id in self.without:
            return "excluded by ZOO_HOOKS"
        if self.only is not None and patch_id not in self.only:
            return "not among the patches that ZOO_HOOKS selects"
        return ""


def read() -> Settings:
    """Parse the environment.

    Setting the variable means wanting less than the default. So an unknown word selects nothing, and an
    unknown word with a minus excludes everything. A warning is logged once.
    """
    if switched_off():
        return Settings(off=True)
    return _parse(os.environ.get("ZOO_HOOKS", "").strip().lower())


@functools.lru_cache(maxsize=16)
def _parse(text: str) -> Settings:
    if text in ON_WORDS or not text:
        return Settings()
    words = [word.strip() for word in text[:LONGEST].split(",") if word.strip()]
    chosen: list[str] = []
    without: list[str] = []
    unknown: list[str] = [] if len(text) <= LONGEST else [f"the text after {LONGEST} characters"]
    for word in words:
        if word not in DRY_RUN_WORDS | ON_WORDS:
            found = _ids(word.removeprefix("-"))
            (without if word.startswith("-") else chosen).extend(found)
            unknown += [] if found else [word]
    dry_run = any(word in DRY_RUN_WORDS for word in words)
    only = None if all(word.startswith("-") or word in DRY_RUN_WORDS | ON_WORDS for word in words) else chosen
    off = any(word.startswith("-") for word in unknown) or len(text) > LONGEST
    current = Settings(off, dry_run, None if only is None else tuple(only), tuple(without))
    if unknown:
        _tell_unknown(unknown, current)
    return current


def _ids(word: str) -> list[str]:
    try:
        return catalogue.matching(word)
    except catalogue.UnknownPatch:
        return []


def _tell_unknown(unknown: list[str], current: Settings) -> None:
    said = []
    for word in unknown[:HINTS]:
        sign = "-" if word.startswith("-") else ""
        near = " or ".join(f"{sign + one!r}" for one in _nearest(word.removeprefix("-")))
        said.append(f"{word[:60]!r}" + (f" (did you mean {near}?)" if near else ""))
    more = f" and {len(unknown) - HINTS} more" if len(unknown) > HINTS else ""
    left = "nothing" if current.off or current.only == () else f"only {', '.join(current.only or ())}"
    notices.say(
        notices.WARNING,
        f"ZOO_HOOKS: {', '.join(said)}{more} {'is' if len(unknown) == 1 else 'are'} no setting and no patch. "
        f"To be safe, {left[:300]} is repaired. Valid forms: {FORMS}.",
    )


def _nearest(word: str) -> list[str]:
    import difflib

    families = {f"{bug.partition('-')[0]}-*" for bug in (one.partition("/")[2] for one in catalogue.ids())}
    upstreams = {form for name in catalogue.upstreams() for form in (name, f"{name}/*")}
    known = [*families, *upstreams, "dry-run", "off"]
    return difflib.get_close_matches(word[:60], known, n=1, cutoff=0.7) or catalogue.nearest(word)


def strict() -> bool:
    """Tell whether ``ZOO_HOOKS_STRICT`` asks for errors to be raised."""
    return _is_on("ZOO_HOOKS_STRICT", "errors of patches are not raised")


def logs() -> bool:
    """Tell whether ``ZOO_HOOKS_LOG`` asks for a line at the end of the process."""
    return _is_on("ZOO_HOOKS_LOG", "nothing is logged")


def _is_on(name: str, otherwise: str) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if text and text not in ON_WORDS | OFF_WORDS:
        notices.say(notices.WARNING, f"{name}: {text[:60]!r} is neither 1 nor 0; {otherwise}")
    return text in ON_WORDS
