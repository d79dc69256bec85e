"""Arms the loaders of targets, so that the engine acts when their bodies have run.

Runs inside ``find_spec``, where nothing may be imported: see ``zoo_hooks.arming()``.
"""

import sys

TYPE_CHECKING = False  # as in zoo_hooks
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    import zoo_hooks

FRAMES = 300  # that our work may need below the target's; nearer to the recursion limit nothing is repaired
STACK = 1 << 20  # bytes; in a thread with less nothing is repaired

_armed: "dict[str, Any]" = {}  # loaders by the target that they are armed for
_engine: "ModuleType | None" = None  # kept, for a tool may take it out of sys.modules
_told = False


def find_spec(name: str, path: "Any", target: "Any") -> "ModuleSpec | None":
    """The spec that the finders behind ours have for a target, its loader armed."""
    if zoo_hooks.switched_off() or _cramped():
        return None
    spec = spec_behind(name, path, target)
    if spec is not None:
        try:
            _arm(spec.loader, name)
        except BaseException as error:  # a loader may be anything
            pass_on(error)
    return spec


def spec_behind(name: str, path: "Any", target: "Any" = None) -> "ModuleSpec | None":
    """What the finders behind this one say, asked as the import system asks them."""
    behind = list(sys.meta_path)
    while behind and behind.pop(0) is not zoo_hooks._me:  # noqa: SLF001 - the two are one finder
        pass
    for finder in behind:
        find: Any = getattr(finder, "find_spec", None)
        if find is not None:
            spec = find(name, path, target)
        elif legacy := getattr(sys.modules["_frozen_importlib"], "_find_spec_legacy", None):
            spec = legacy(finder, name, path)  # up to Python 3.11 those with find_module alone are used
        else:
            spec = None
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def _cramped() -> bool:
    frame, depth = sys._getframe(), 0  # noqa: SLF001 - documented
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    thread = sys.modules["_thread"]
    return sys.getrecursionlimit() - depth < FRAMES or 0 < thread.stack_size() < STACK


def _arm(loader: "Any", name: str) -> None:
    for _ in range(9):  # at most: it may be its own
        if type(loader).__name__ == "LazyLoader":
            loader = loader.loader  # it runs the body, and only at the first access
    attributes = loader.__dict__
    shadow = attributes.get("exec_module", exec_module)
    if getattr(shadow, "__func__", shadow) is exec_module and hasattr(type(loader), "exec_module"):
        # A module's body that warns with a stacklevel, and the traceback of one that fails, look past
        # the import system's frames, which Python knows by this file name. Ours is one of them.
        exec_module.__code__ = exec_module.__code__.replace(co_filename="<frozen importlib._bootstrap>")
        _armed[name] = loader
        attributes.setdefault("exec_module", exec_module.__get__(loader))


def _disarm(loader: "Any", name: str) -> None:
    # A loader may serve many modules and threads at once (zipimport, pytest's rewriter). No lock is
    # needed: who arms one writes _armed first, and here it is read again after the removal.
    _armed.pop(name, None)
    if id(loader) not in map(id, list(_armed.values())):
        shadow = loader.__dict__.pop("exec_module", None)
        if shadow and id(loader) in map(id, list(_armed.values())):
            loader.__dict__["exec_module"] = shadow


def exec_module(loader: "Any", module: "ModuleType") -> None:
    """Stand before one loader's own ``exec_module`` until the targets it is armed for have run."""
    name = finish = None  # type: Any
    watched = False
    original = type(loader).exec_module.__get__(loader)
    try:
        original = _original(loader) or original
        names = getattr(module, "__dict__", {})
        name = getattr(names.get("__spec__"), "name", None) or names.get("__name__")
        watched = bool(name) and zoo_hooks.is_target(name)
        if watched:
            _disarm(loader, name)
        if name in zoo_hooks.BEFORE:
            finish = _run("before", module, name)
    except BaseException as error:  # a loader and a module may be anything
        pass_on(error)
    try:
        original(module)
    except BaseException as error:
        without_frames(error)
        raise
    finally:
        if finish is not None:
            finish()
    if watched:
        _run("after", module, name)


def _original(loader: "Any") -> "Any":
    for kind in type(loader).__mro__:
        if "exec_module" in vars(kind):  # a function, or a static or class method
            return vars(kind)["exec_module"].__get__(loader, type(loader))
    return None


def without_frames(error: BaseException) -> BaseException:
    """Take our frames from the top of a traceback, as the import system does with its own."""
    # Python 3.11 and later re-raise with the traceback as it stands now, without our frames.
    rest = error.__traceback__
    ours = (globals(), vars(zoo_hooks))
    while rest is not None and any(rest.tb_frame.f_globals is names for names in ours):
        rest = rest.tb_next
    return BaseException.with_traceback(error, rest)  # the class of the error may not let itself be changed


def is_our_own(error: BaseException) -> bool:
    """Tell whether an error is neither that of a finder behind ours nor from outside; strips our frames."""
    pass_on(error)
    return without_frames(error).__traceback__ is None


def _run(turn: str, *arguments: "Any") -> "Any":
    """Let the engine act; nothing but what comes from outside, or strict mode, leaves here."""
    global _engine
    if zoo_hooks._orphaned:  # noqa: SLF001
        return None
    try:
        if _engine is None:
            from zoo_hooks.safety import load

            _engine = load("zoo_hooks.engine")
        return getattr(_engine, turn)(*arguments)
    except BaseException as error:
        if type(error).__name__ == "PatchFailed":
            raise
        pass_on(error)
        _tell(error)
        return None


def pass_on(error: BaseException) -> None:
    """Raise what came from outside our work: see ``zoo_hooks.safety.pass_on``."""
    try:
        from zoo_hooks import safety
    except Exception:  # a damaged installation
        return
    safety.pass_on(error)


def _tell(error: BaseException) -> None:
    global _told
    if _told or isinstance(error, (RecursionError, MemoryError)):
        return
    _told = True
    message = (
        f"zoo-hooks cannot work and repairs nothing ({type(error).__name__}: {error}); "
        "`zoo-hooks check` says what is damaged; reinstall it, or set ZOO_HOOKS=0 to silence this"
    )
    try:
        from zoo_hooks.safety import load

        load("zoo_hooks.notices").say(30, message)
    except Exception:  # a damaged installation
        sys.stderr.write(f"{message}\n")
