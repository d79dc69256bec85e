"""Lets accelerate count one batch per step, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted(accelerator: Any) -> Iterator[None]:
    """Let ``backward`` of accelerate divide by one, until the block ends, also by an error."""
    steps = accelerator.gradient_accumulation_steps
    accelerator.gradient_accumulation_steps = 1
    try:
        yield
    finally:
        accelerator.gradient_accumulation_steps = steps
