"""What refuses a file that asks for more than it may."""

from __future__ import annotations


class Refused(ValueError):
    """As upstreams refuse: a ValueError whose message has the reason."""
