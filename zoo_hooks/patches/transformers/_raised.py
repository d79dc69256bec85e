"""Tells an upstream's error from one that a probe's own call made."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, final


@final
class Raised:
    """As ``with Raised() as raised:`` it keeps what its block raises, so that a probe can look at it."""

    error: Exception | None = None

    def __enter__(self) -> Raised:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    def by(self, function: Callable[..., Any], kind: type[Exception], words: str) -> bool:
        """Tell whether the code of ``function`` itself raised it, and not what called it or what it calls."""
        trace = (
            self.error.__traceback__ if isinstance(self.error, kind) and words in str(self.error) else None
        )
        while trace and trace.tb_next:
            trace = trace.tb_next
        return trace is not None and trace.tb_frame.f_code is inspect.unwrap(function).__code__
