"""What keeps our own work from doing harm: whose an exception is, and whose files are run.

Like the start-up module it imports only what is there already, for it guards what is imported after it.
"""

import sys

import zoo_hooks

TYPE_CHECKING = False  # as in zoo_hooks
if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Any

_IMPORTED = ("zoo_hooks", "importlib_metadata", "packaging")  # beside the standard library
_loading: "set[int]" = set()  # threads that import our own modules


def pass_on(error: BaseException) -> None:
    """Raise what came from outside our work, be it this error or what it hides; return if nothing did.

    That is what a signal handler of the user's raises, or another thread, while our code runs.
    """
    hidden: BaseException | None = error
    for _ in range(9):
        if hidden is None:
            return
        if _from_outside(hidden):
            _bind_submodules()
            raise hidden
        hidden = hidden.__cause__ or hidden.__context__  # as of __set_name__, whose errors are wrapped


def _bind_submodules() -> None:
    """Set submodules of what we import on their packages, as their imports do last of all.

    An import that is interrupted before that leaves a ``collections`` without ``abc`` for the whole process.
    """
    for name, module in list(sys.modules.items()):
        parent, _, child = name.rpartition(".")
        package, root = sys.modules.get(parent), name.partition(".")[0]
        ours = root in sys.stdlib_module_names or root in _IMPORTED
        if ours and package and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            vars(package).setdefault(child, module)


def _from_outside(error: BaseException) -> bool:
    """Tell a signal handler, and what is raised by no instruction.

    Python calls a handler with a number and the frame that it interrupts, which the import system may have
    taken out of the traceback. What another thread raises
    (``PyThreadState_SetAsyncExc``), and Ctrl-C, has no arguments, and stands at no instruction that raises.
    """
    innermost = None
    entry = error.__traceback__
    while entry is not None:
        if _handles_signal(entry.tb_frame):
            return True
        innermost, last, entry = entry.tb_frame, entry.tb_lasti, entry.tb_next
    raised_in_c = (GeneratorExit, MemoryError, StopAsyncIteration, StopIteration, SystemExit)
    if innermost is None or error.args or isinstance(error, raised_in_c):
        return False
    opname = load("opcode").opname
    return opname[innermost.f_code.co_code[last]] not in ("RAISE_VARARGS", "RERAISE")


def _handles_signal(frame: "FrameType") -> bool:
    code, values = frame.f_code, frame.f_locals
    takes_more = bool(code.co_flags & 4)
    given: list[Any] = []
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + takes_more]:
        value = values.get(name)
        given += value if isinstance(value, tuple) else [value]
    interrupted = frame.f_back
    return interrupted is not None and any(
        isinstance(given[n - 1], int) and given[n] is interrupted for n in range(1, len(given))
    )


def load(name: str) -> "ModuleType":
    """Import a module for our own use; ImportError where a file stands in the place of one of Python's own.

    The folder of the script comes first on ``sys.path``. A file there that is called like a module of the
    standard library which nobody has imported yet would be run by us, and not without us.
    """
    from _thread import get_ident

    me = get_ident()
    outermost = me not in _loading
    _loading.add(me)
    zoo_hooks._check = _no_stranger  # noqa: SLF001 - the finder is a part of this
    try:
        try:
            __import__(name)
            return sys.modules[name]
        except (AttributeError, ImportError, KeyError) as error:
            # A signal's exception may have ended the import of another thread, for which this one waited.
            pass_on(error)
            __import__(name)
            return sys.modules[name]
    finally:
        if outermost:
            _loading.discard(me)
        if not _loading:
            zoo_hooks._check = None  # noqa: SLF001


def _no_stranger(name: str, path: "Any", target: "Any") -> "Any":
    from _thread import get_ident

    if path is not None or name not in sys.stdlib_module_names or get_ident() not in _loading:
        return None
    spec = zoo_hooks.arming().spec_behind(name, path, target)
    if spec is not None and spec.has_location and not _is_pythons_own(spec.origin or ""):
        raise ImportError(f"{spec.origin} stands in the place of Python's own module {name}")
    return spec


def _is_pythons_own(file: str) -> bool:
    import os

    standard = os.__file__.rpartition(os.sep)[0]
    return file.startswith((f"{standard}{os.sep}", f"{sys.base_exec_prefix}{os.sep}DLLs{os.sep}"))
