"""torchcodecs that work, or fail while they load, for child interpreters: stand-ins, and a real one.

The real one lies in a folder beside PyAV, both of which the cells install there, in the folder that
``ZOO_HOOKS_TEST_TORCHCODEC`` names. It fails for want of FFmpeg's libraries, and works with those of PyAV.
"""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest

REAL = os.environ.get("ZOO_HOOKS_TEST_TORCHCODEC")
needs_a_real_one = pytest.mark.skipif(not REAL, reason="no other torchcodec is part of this environment")

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


def real_without_ffmpeg():
    """The variables with which a child has it before the installed one."""
    return {"PYTHONPATH": str(Path(REAL, "torchcodec"))}


def real(folder):
    """And those with which it finds FFmpeg: by the plain names of the libraries, which PyAV's lack."""
    place = Path(REAL, "av", "av.libs")
    for file in place.glob("lib*-*.so.*"):
        link = folder / re.sub(r"-[0-9a-f]+(\.so\.\d+)[\d.]*$", r"\1", file.name)
        if not link.exists():
            link.symlink_to(file)
    return real_without_ffmpeg() | {"LD_LIBRARY_PATH": os.pathsep.join([str(folder), str(place)])}
