"""Where transformers' code can be read."""

from __future__ import annotations


def link(target: str, line: int) -> str:
    """The address of a line of a module, in 5.24.0."""
    path = target.replace(".", "/")
    return f"https://github.com/huggingface/transformers/blob/v5.24.0/src/{path}.py#L{line}"
