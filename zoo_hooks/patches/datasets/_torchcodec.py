"""What the patches about torchcodec share."""

from contextlib import suppress


def loads() -> bool:
    """Tell whether torchcodec, which is installed, can be loaded. Imports it, and torch."""
    with suppress(Exception):  # what native code fails with has no one type
        import torchcodec.decoders

        return bool(torchcodec.decoders)
    return False
