"""What a call raised: a probe takes for the symptom only an error that says so in upstream's words."""

from __future__ import annotations


class Raised:
    """Keeps the error of its block, which ends there."""

    error: Exception | None = None

    def __enter__(self) -> Raised:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    def says(self, words: str) -> bool:
        """Tell whether there was an error with these words."""
        return self.error is not None and words in str(self.error)
