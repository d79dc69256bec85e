"""Stand-ins for torchcodec that work, or fail while they load, for child interpreters."""

from __future__ import annotations

import textwrap

WORKS = """
class AudioDecoder:
    def __init__(self, *arguments, **options):
        self.metadata = type("Metadata", (), {})()

class VideoDecoder(AudioDecoder):
    pass

class AudioEncoder:
    def __init__(self, samples, **options):
        self.samples = samples

    def to_file_like(self, file, **options):
        file.write(bytes(len(self.samples)))
"""


def stand_in(folder, body=WORKS):
    """Write a package torchcodec; the result is the PYTHONPATH that has it before the installed one."""
    package = folder / "stand_in" / "torchcodec"
    for name in ("", "decoders", "encoders"):
        (package / name).mkdir(parents=True)
        source = textwrap.dedent(body) if name else "from . import decoders, encoders\n"
        (package / name / "__init__.py").write_text(source)
    return str(package.parent)
