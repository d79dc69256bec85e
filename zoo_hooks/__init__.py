"""Repairs for known bugs between the libraries of the ML stack, made as those libraries are imported.

This module runs at the start of every Python process of its environment, so it imports only what
is there already and does one thing: it puts a finder with a set of exact names on
``sys.meta_path``. All else is imported when a watched module has been loaded.
"""

import os
import sys
from _thread import RLock

TYPE_CHECKING = False  # typing itself is too costly to import here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from zoo_hooks.controls import activate, disabled, revert
    from zoo_hooks.ledger import fingerprint, report

__version__ = "0.1.0"
__all__ = ["activate", "disabled", "fingerprint", "init", "report", "revert"]

# The modules whose import triggers a patch. A test compares them with the patches on disk.
TARGETS = frozenset(
    {
        "transformers.cache_utils",
        "transformers.models.gemma3n.modeling_gemma3n",
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.gemma4_unified.modeling_gemma4_unified",
        "transformers.models.mistral_large4.modeling_mistral_large4",
    }
)
# Those among them that have a patch with when="before".
BEFORE: "frozenset[str]" = frozenset()

OFF_WORDS = frozenset({"0", "off", "false", "no"})

_PUBLIC = {
    "activate": "zoo_hooks.controls",
    "disabled": "zoo_hooks.controls",
    "fingerprint": "zoo_hooks.ledger",
    "report": "zoo_hooks.ledger",
    "revert": "zoo_hooks.controls",
}

_arming = RLock()  # held for a few dictionary operations, never over an import
_told_broken = False


def _renew_lock() -> None:
    # Another thread may have held the lock at the moment of the fork; it does not live in the child.
    global _arming
    _arming = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def init() -> None:
    """Put the finder on ``sys.meta_path``, unless it is there or ``ZOO_HOOKS`` switches it off."""
    if not switched_off() and not installed():
        sys.meta_path.insert(0, Finder())


def installed() -> bool:
    """Tell whether the finder is on ``sys.meta_path``."""
    return any(type(finder).__module__ == __name__ for finder in sys.meta_path)


def switched_off() -> bool:
    """Tell whether ``ZOO_HOOKS`` says that nothing is to be done, as it stands now."""
    return os.environ.get("ZOO_HOOKS", "").strip().lower() in OFF_WORDS


class Finder:
    """Lets the other finders find a target, and arms its loader to call the engine."""

    def find_spec(
        self,
        name: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Return the spec that the finders behind this one have for a target; None for the rest."""
        if name not in TARGETS or switched_off():
            return None
        try:
            behind = list(sys.meta_path)
            while behind and behind.pop(0) is not self:
                pass
            for finder in behind:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    _arm(spec.loader, name)
                    return spec
        except Exception:  # noqa: BLE001, S110 - the import system now asks them itself, and its error shows no frame of ours
            pass
        return None


def _arm(loader: "Any", name: str) -> None:
    while any(kind.__name__ == "LazyLoader" for kind in type(loader).__mro__):
        loader = loader.loader  # it runs the body, and only at the first access
    attributes = loader.__dict__
    with _arming:
        shadow = attributes.get("exec_module")
        if type(shadow) is not _Shadow:
            shadow = attributes["exec_module"] = _Shadow(loader)
        shadow.names.add(name)


class _Shadow:
    """Stands before one loader's ``exec_module`` until the targets it is armed for have run.

    A loader may serve many modules and threads at once (zipimport, pytest's rewriter): for all
    but the armed names a call passes straight through.
    """

    def __init__(self, loader: "Any") -> None:
        self.loader = loader
        self.names: set[str] = set()
        self.own = loader.__dict__.get("exec_module")
        self.exec_module = loader.exec_module

    def disarm(self, name: str) -> bool:
        with _arming:
            armed = name in self.names
            self.names.discard(name)
            attributes = self.loader.__dict__
            if not self.names and attributes.get("exec_module") is self:
                if self.own is None:
                    del attributes["exec_module"]
                else:
                    attributes["exec_module"] = self.own
        return armed

    def __call__(self, module: "ModuleType") -> None:
        name = module.__spec__.name if module.__spec__ else module.__name__
        armed = self.disarm(name)
        finish = None
        if armed and name in BEFORE and (engine := _engine()):
            finish = engine.before(module)
        try:
            self.exec_module(module)
        except BaseException as error:
            # Python 3.11 and later re-raise with the traceback as it stands now, without this frame.
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next
            raise
        finally:
            if finish is not None:
                finish()
        if armed and (engine := _engine()):
            engine.after(module)


# A module's body that warns with a stacklevel, and the traceback of one that fails, look past the
# import system's frames, which Python knows by this file name. Ours is one of them.
_Shadow.__call__.__code__ = _Shadow.__call__.__code__.replace(co_filename="<frozen importlib._bootstrap>")


def _engine() -> "ModuleType | None":
    global _told_broken
    try:
        from zoo_hooks import engine
    except Exception:  # a broken installation must not break the user's import
        if not _told_broken:
            _told_broken = True
            import logging

            logging.getLogger(__name__).warning(
                "zoo-hooks cannot load and repairs nothing; reinstall it, or set ZOO_HOOKS=0 to silence this",
                exc_info=True,
            )
        return None
    return engine


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *_PUBLIC})
