"""What ``ZOO_HOOKS`` and ``ZOO_HOOKS_STRICT`` say, read anew each time."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase

from zoo_hooks import OFF_WORDS, catalogue, switched_off

ON_WORDS = frozenset({"1", "on", "true", "yes"})
FORMS = (
    "0 (off), 1 (on, the default), dry-run, patch ids with * allowed, as in cache-* (only these) "
    "or -cache-* (all but these)"
)

_log = logging.getLogger("zoo_hooks")
_told: set[str] = set()


@dataclass(frozen=True)
class Settings:
    """The parsed variables."""

    off: bool = False
    dry_run: bool = False
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def refusal(self, patch_id: str) -> str:
        """Say why a patch is switched off; empty if it is not."""
        if self.off:
            return "switched off by ZOO_HOOKS"
        if any(fnmatchcase(patch_id, pattern) for pattern in self.without):
            return "left out by ZOO_HOOKS"
        if self.only and not any(fnmatchcase(patch_id, pattern) for pattern in self.only):
            return "not among those that ZOO_HOOKS names"
        return ""


def read() -> Settings:
    """Parse the environment. A word that means nothing is warned of once, and left out."""
    text = os.environ.get("ZOO_HOOKS", "").strip().lower()
    if switched_off():
        return Settings(off=True)
    if text in ON_WORDS or not text:
        return Settings()
    dry_run = False
    only: list[str] = []
    without: list[str] = []
    known = catalogue.ids()
    for word in filter(None, map(str.strip, text.split(","))):
        pattern = word.removeprefix("-")
        if word == "dry-run":
            dry_run = True
        elif not any(fnmatchcase(patch_id, pattern) for patch_id in known):
            import difflib

            families = {f"{patch_id.partition('-')[0]}-*" for patch_id in known}
            near = difflib.get_close_matches(pattern, ["dry-run", "off", *known, *sorted(families)], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            _tell(f"ZOO_HOOKS: {word!r} is no setting and matches no patch.{hint} Valid forms: {FORMS}.")
        else:
            (without if word.startswith("-") else only).append(pattern)
    return Settings(dry_run=dry_run, only=tuple(only), without=tuple(without))


def strict() -> bool:
    """Tell whether ``ZOO_HOOKS_STRICT`` asks for errors to be raised."""
    text = os.environ.get("ZOO_HOOKS_STRICT", "").strip().lower()
    if text and text not in ON_WORDS | OFF_WORDS:
        _tell(f"ZOO_HOOKS_STRICT: {text!r} is neither 1 nor 0; errors do not raise")
    return text in ON_WORDS


def _tell(message: str) -> None:
    if message not in _told:
        _told.add(message)
        _log.warning(message)
