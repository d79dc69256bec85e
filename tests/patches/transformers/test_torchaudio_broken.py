"""transformers with a torchaudio that cannot be loaded; the rest is as released."""

from __future__ import annotations

from optional_packages import SYMBOL, as_if_absent, as_without_us, package, tries

PATCH = "transformers/torchaudio-broken"
NAME = "torchaudio"
IMPORT = (
    "from transformers.models.audio_spectrogram_transformer import "
    "feature_extraction_audio_spectrogram_transformer"
)
TRY = f"""
from transformers.utils import import_utils
{IMPORT}
print(import_utils.is_torchaudio_available())
"""
NAMED = tries(table="import_utils.requires_backends(print, ['torchaudio'])")


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_what_needs_none_is_as_if_it_were_absent_and_who_names_it_gets_its_error(tmp_path):
    """One warning; what refuses with words of how to install it has the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(
        tmp_path, NAME, "", {"torchaudio/compliance/__init__.py": "", "torchaudio/compliance/kaldi.py": ""}
    )
    as_without_us(path, NAME, "import_utils.is_torchaudio_available()", IMPORT, PATCH)
