"""Upstream code with a known verdict, which a probe recognises by its text and need not run.

A run takes milliseconds, and the first operations of torch touch megabytes of its libraries. Any other code,
such as that of a new release or of another library, is run.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from types import CodeType
from typing import Any

from zoo_hooks.model import Verdict


def verdict(known: Mapping[str, Verdict], *parts: Any, repaired: int = 1) -> Verdict | None:
    """The verdict of functions by their digest; None if it is not known.

    The repair wraps the first ``repaired`` of them. Code with the bug is FIXED if all of these are wrapped.
    """
    ours = [_is_ours(part) for part in parts]
    if any(ours) and ours != [True] * repaired + [False] * (len(parts) - repaired):
        return None
    plain = [part.__wrapped__ if wrapped else part for part, wrapped in zip(parts, ours, strict=True)]
    found = known.get(digest(*plain))
    return Verdict.FIXED if any(ours) and found is Verdict.AFFECTED else found


def digest(*functions: Any) -> str:
    """Twelve hexadecimal digits of the source text of functions; empty if one of them has none.

    Of the functions that wrap them, only the package counts.
    """
    try:
        read = b"\0".join(part for function in functions for part in _read(function))
    except OSError:
        return ""
    return hashlib.sha256(read).hexdigest()[:12]


def text(function: Any) -> bytes:
    """The source lines of a function; OSError if there are none.

    ``inspect.getsource`` takes them apart to find the last one, which takes milliseconds in a long file.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        raise OSError(f"{function!r} has no source")
    return _text(code)


def _is_ours(function: Any) -> bool:
    return _package(function) == b"zoo_hooks" and hasattr(function, "__wrapped__")


def _package(function: Any) -> bytes:
    return str(getattr(function, "__globals__", {}).get("__name__")).partition(".")[0].encode()


def _read(function: Any) -> Iterator[bytes]:
    while hasattr(function, "__wrapped__"):
        yield _package(function)
        function = function.__wrapped__
    yield _package(function)
    yield text(function)


@functools.lru_cache(maxsize=32)
def _text(code: CodeType) -> bytes:
    lines = islice(io.BytesIO(_file(code.co_filename)), code.co_firstlineno - 1, _last_line(code))
    return b"\n".join(line.rstrip(b"\r\n") for line in lines)


@functools.lru_cache(maxsize=1)
def _file(path: str) -> bytes:
    return Path(path).read_bytes()


def _last_line(code: CodeType) -> int:
    inner = (_last_line(one) for one in code.co_consts if isinstance(one, CodeType))
    last: int = max(chain(inner, filter(None, map(itemgetter(2), code.co_lines()))))
    return last
