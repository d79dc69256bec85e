"""Logging, but never while another thread could be waiting for a lock of the import system."""

from __future__ import annotations

import sys
from collections import deque

from zoo_hooks.safety import load, pass_on

WARNING, INFO, DEBUG = 30, 20, 10  # as logging has them, which is imported only to say something

_waiting: deque[tuple[int, str]] = deque(maxlen=1000)
_said: set[str] = set()
_at_exit = False


def say(level: int, message: str) -> None:
    """Log a message once on the logger ``zoo_hooks``; later, if logging now could block an import.

    While one thread imports and logs, another may hold the lock of a handler and wait for that import. So if
    there are other threads, messages during an import are kept. They are logged with the next message outside
    of an import, with a report, or at the end of the process.
    """
    global _at_exit
    if message in _said or (level < WARNING and "logging" not in sys.modules):
        return
    _said.add(message)
    _waiting.append((level, message))
    if len(sys._current_frames()) == 1 or not _importing():  # noqa: SLF001 - documented
        flush()
    elif not _at_exit:
        import atexit

        _at_exit = True
        atexit.register(flush)


def flush() -> None:
    """Log the waiting messages. Errors of filters and handlers are dropped: the user did not log this."""
    while _waiting:
        level, message = _waiting.popleft()
        try:
            _log(level, message)
        except BaseException as error:
            pass_on(error)


def _log(level: int, message: str) -> None:
    try:
        logger = load("logging").getLogger("zoo_hooks")
    except ImportError:  # a file beside the script stands in its place
        if level >= WARNING:
            sys.stderr.write(f"{message}\n")
    else:
        logger.log(level, "%s", message)


def _importing() -> bool:
    frame = sys._getframe()  # noqa: SLF001
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code.co_filename.startswith("<frozen importlib"):  # our own exec_module too
            return True
    return False
