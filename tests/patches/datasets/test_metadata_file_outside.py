"""Metadata of a folder names files of that folder, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Features, Image, Value
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

PATCH = "datasets/metadata-file-outside"
FOUL = ["../secret", "a/../../secret", "/etc/passwd", "file:///etc/passwd", "..", "zip://x::/etc/secret.zip"]
GOOD = ["a.png", "sub/a.png", "./a.png", "sub/../a.png", "..a.png", "naïve (1).png"]


def read(folder, row, **features):
    """The examples that one row of metadata makes."""
    file = Path(folder, "metadata.jsonl")
    file.write_text(json.dumps(row))
    builder = ImageFolder(cache_dir=str(folder), data_dir=str(folder))
    builder.info.features = Features({"image": Image(), **features})
    files = [(str(file), str(file))]
    return [
        example for _, example in builder._generate_examples([], files, add_metadata=True, add_labels=False)
    ]


def test_without_the_repair_an_affected_release_reads_it(measured):
    """One file there, none with the repair or elsewhere."""
    row = measured(PATCH)
    assert row["with"] == 0
    assert row["without"] == (1 if row["status"] == "APPLIED" else 0)


@pytest.mark.parametrize("path", FOUL)
@pytest.mark.parametrize("key", ["file_name", "image_file_name"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path, path, key):
    """Under each name that an image can have."""
    with pytest.raises(ValueError, match="Invalid metadata file_name"):
        read(tmp_path, {key: path})


@pytest.mark.parametrize("path", FOUL[:3])
def test_one_in_a_list_is_refused(tmp_path, path):
    """Beside a good one."""
    with pytest.raises(ValueError, match="Invalid metadata file_name"):
        read(tmp_path, {"file_name": "a.png", "more_file_names": ["b.png", path]}, more=[Image()])


@pytest.mark.parametrize("path", GOOD)
def test_a_path_within_the_folder_is_read(tmp_path, path):
    """As without the repair."""
    (example,) = read(tmp_path, {"file_name": path})
    assert Path(example["image"]) == tmp_path / Path(path).name or "sub" in path


@pytest.mark.parametrize("value", ["/home/me/original.png", "https://example.org/a.png"])
def test_other_columns_are_not_looked_at(tmp_path, value):
    """Text that is a path, also under a name like that of a file, for which there is no image."""
    row = {"file_name": "a.png", "source": value, "original_file_name": value}
    text = {"source": Value("string"), "original_file_name": Value("string")}
    (example,) = read(tmp_path, row, **text)
    assert example["source"] == example["original_file_name"] == value
