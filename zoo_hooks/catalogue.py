"""The patches on disk, by target."""

from __future__ import annotations

import functools
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from types import ModuleType

import zoo_hooks.patches
from zoo_hooks import targets
from zoo_hooks.model import Patch
from zoo_hooks.safety import load, pass_on

broken: dict[str, BaseException] = {}
"""The errors of patch modules that cannot be imported, by patch id."""

_loaded: dict[str, Patch | None] = {}
_kept: dict[str, ModuleType] = {}
_packages = [zoo_hooks]
_looked: dict[str, int] = {}
"""How many names of each package keep_modules has looked at. A half imported submodule is none."""


class UnknownPatch(LookupError):
    """No patch has this id, or several match it. The message names them, the nearest or all upstreams."""


def upstreams() -> tuple[str, ...]:
    """Import names of the packages that patches exist for."""
    return _folders(tuple(zoo_hooks.patches.__path__))


def ids() -> dict[str, str]:
    """Module names of all patches by id, read from the file names; no patch is imported."""
    return {
        _id(module): module
        for upstream in upstreams()
        for name in _found(upstream)
        for module in [f"{zoo_hooks.patches.__name__}.{upstream}.{name}"]
    }


def keep_modules() -> None:
    """Put our modules back into sys.modules if a tool has removed or replaced them.

    Otherwise a patch that is imported later would use a second copy of them. Each name is looked at once, for
    this runs at each target.
    """
    for name, module in _kept.items():
        if sys.modules.get(name) is not module:
            sys.modules[name] = module
    for package in _packages:  # grows meanwhile
        names = list(vars(package).items())
        for name, module in names[_looked.get(package.__name__, 0) :]:
            path = f"{package.__name__}.{name}"
            if isinstance(module, ModuleType) and sys.modules.get(path) is module:
                _kept[path] = module
                if hasattr(module, "__path__"):
                    _packages.append(module)
        _looked[package.__name__] = len(names)


def for_target(target: str) -> list[Patch]:
    """Patches of this target.

    Loads those in the folder of its upstream. A patch between two upstreams lies in the folder of one of them
    and requires both. So it was loaded when a target of that one was imported.
    """
    upstream = target.partition(".")[0]
    there = upstream in upstreams()
    for name in targets.PATCHES.get(target, "").split() if there else ():
        _load(f"{zoo_hooks.patches.__name__}.{upstream}.{name}")
    found = [patch for patch in list(_loaded.values()) if patch and target in patch.targets]
    if not there and not found:
        raise LookupError(f"the folder of the patches for {upstream} is missing; reinstall zoo-hooks")
    return found


def everything() -> list[Patch]:
    """All patches that can be imported, by upstream and id."""
    patches = [_load(module) for module in ids().values()]
    return sorted((patch for patch in patches if patch), key=lambda p: (p.upstream, p.id))


def get(word: str) -> Patch:
    """The patch with this id, or this second half of an id; UnknownPatch if there is none, or several."""
    found = named(word)
    if len(found) > 1:
        raise UnknownPatch(f"{word!r} names {len(found)} patches: {', '.join(found)}")
    patch = _load(ids()[found[0]])
    if patch is None:
        raise UnknownPatch(f"patch {found[0]!r} cannot be imported: {broken[found[0]]!r}")
    return patch


def named(word: str) -> list[str]:
    """Ids that a word matches, as ``matching`` has them; UnknownPatch if there are none."""
    found = matching(word)
    if not found:
        near = nearest(word)
        all_of_them = f"patches are for {', '.join(sorted(upstreams()))}; zoo-hooks list shows all"
        hint = f"did you mean {' or '.join(near)}?" if near else all_of_them
        raise UnknownPatch(f"no patch is called {word!r}; {hint}")
    return found


def matching(word: str) -> list[str]:
    """Ids that a word matches: ``peft/*``, ``peft``, ``peft/shadow-cache-dropped``, ``shadow-*``, ``shadow``.

    UnknownPatch if the second half of an id matches several.
    """
    upstream, slash, bug = word.lower().rpartition("/")
    upstream, bug = upstream.replace("-", "_"), bug.replace("_", "-")
    if not slash and bug.replace("-", "_") in upstreams():
        upstream, slash, bug = bug.replace("-", "_"), "/", "*"
    place = upstream if slash else "*"
    known = list(ids())
    exact = [one for one in known if fnmatchcase(one, f"{place}/{bug}")]
    if len(exact) > 1 and not slash and "*" not in bug:
        raise UnknownPatch(f"{word!r} matches several patches: {', '.join(exact)}")
    return exact or [one for one in known if fnmatchcase(one, f"{place}/{bug}-*")]


def select(words: Iterable[str]) -> list[Patch]:
    """The patches that words match, each once, in the order of the words."""
    return [get(one) for one in dict.fromkeys(one for word in words for one in named(word))]


def nearest(word: str) -> list[str]:
    """At most three ids that are similar to a word that matches none."""
    import difflib

    known = {one if "/" in word else one.partition("/")[2]: one for one in ids()}
    same = [one for one in ids() if one.partition("/")[2] == word]
    return same or [known[near] for near in difflib.get_close_matches(word[:60], known, n=3, cutoff=0.5)]


def case_report(patch: Patch) -> str:
    """The docstring of a patch's module, with its sections Symptom, Cause and Repair."""
    import inspect

    return inspect.cleandoc(sys.modules[patch.module].__doc__ or "")


def _id(module_name: str) -> str:
    upstream, bug = module_name.split(".")[-2:]
    return f"{upstream}/{bug.replace('_', '-')}"


@functools.cache
def _folders(places: tuple[str, ...]) -> tuple[str, ...]:
    found = (name for _, name, _ in pkgutil.iter_modules(places))
    return tuple(sorted(name for name in found if not name.startswith("_")))  # _name: shared by upstreams


def _found(upstream: str) -> Iterator[str]:
    package = import_module(f"{zoo_hooks.patches.__name__}.{upstream}")
    names = (name for _, name, _ in pkgutil.iter_modules(package.__path__))
    return (name for name in names if not name.startswith("_"))  # _name: shared by patches


def _load(module_name: str) -> Patch | None:
    if module_name not in _loaded:
        try:
            patch = load(module_name).PATCH
            if not isinstance(patch, Patch):
                raise TypeError(f"{module_name}.PATCH is not a Patch")
            _loaded[module_name] = patch
        except BaseException as error:  # one broken patch module must lose only itself
            pass_on(error)
            _loaded[module_name] = None
            broken[_id(module_name)] = error
    return _loaded[module_name]
