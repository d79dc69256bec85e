"""A folder's metadata can make any file of the machine part of a dataset (CVE-2026-66007).

Symptom
-------
The ``metadata.csv``, ``.jsonl`` or ``.parquet`` of a folder of images, audio or video has
``../../home/me/.ssh/id_rsa``, ``/etc/passwd`` or ``file:///etc/passwd`` as a ``file_name``. Loading the
folder reads that file, and ``push_to_hub`` then publishes its contents.

Cause
-----
datasets joins the ``file_name`` to the folder of the metadata, and does not check where the resulting path
leads.

Repair
------
If a ``file_name`` is not a path inside the folder of its metadata, loading raises an error that shows it,
as from 5.0.1 on. zoo-hooks checks every column that names an image, audio or video file, under each
possible name (``file_name``, ``left_file_name``, ``file_names``), and no other column.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from types import CodeType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

ENDS = ("_file_names", "_file_name")


class Refused(ValueError):
    """As upstream refuses."""


def probe(module: ModuleType) -> Verdict:
    builder = module.FolderBasedBuilder
    texts = repr([*_constants(inspect.unwrap(builder._generate_examples).__code__)])  # noqa: SLF001
    if "Invalid metadata file_name" in texts:
        return Verdict.FIXED
    known = "_file_name" in texts and hasattr(builder, "_read_metadata")
    return Verdict.AFFECTED if known else Verdict.UNKNOWN


def _constants(code: CodeType) -> Iterator[Any]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _constants(one)
        else:
            yield one


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.FolderBasedBuilder, "_read_metadata", _refusing)


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    def read_metadata(self: Any, *args: Any, **kwargs: Any) -> Any:
        media = {*_keys(self.info.features or {})}
        for table in original(self, *args, **kwargs):
            for field in table.schema if media else ():
                if "file_name" in str(field):
                    for path in _paths(field.name, table[field.name].to_pylist(), media):
                        _refuse(path)
            yield table

    return read_metadata


def _keys(features: Any) -> Iterator[str]:
    """Names under which features stand, at any depth."""
    if isinstance(features, dict):
        for key, value in features.items():
            yield key
            yield from _keys(value)
    elif isinstance(features, (list, tuple)):
        for value in features:
            yield from _keys(value)
    elif hasattr(features, "feature"):
        yield from _keys(features.feature)


def _paths(key: str, value: Any, media: set[str]) -> Iterator[str]:
    """What stands for a file in a value, which is that of a key, at any depth."""
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _paths(inner, one, media)
    elif isinstance(value, list):
        for one in value:
            yield from _paths(key, one, media)
    elif isinstance(value, str):
        stem = key.removesuffix(ENDS[0]).removesuffix(ENDS[1])
        if key in ("file_name", "file_names") or (stem != key and stem in media):
            yield value


def _refuse(path: str) -> None:
    plain = posixpath.normpath(path.replace("\\", "/"))
    absolute = posixpath.isabs(plain) or bool(PureWindowsPath(path).drive)
    if absolute or "://" in path or plain == ".." or plain.startswith("../"):
        raise Refused(f"Invalid metadata file_name {path!r}: it leads out of its folder (CVE-2026-66007)")


def canary() -> Figure:
    """Reads a good folder first, which must not raise."""
    from datasets import Features, Image
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        builder = ImageFolder(cache_dir=folder, data_dir=folder)
        builder.info.features = Features({"image": Image()})
        file = Path(folder, "metadata.jsonl")
        for name in ("a.png", "../secret.png"):
            file.write_text(json.dumps({"file_name": name}))
            files = {"files": [], "metadata_files": [(str(file), str(file))]}
            with symptom(ValueError, "Invalid metadata file_name"):  # a refusal, upstream's or ours
                found += builder._generate_examples(**files, add_metadata=True, add_labels=False)  # noqa: SLF001
    count = sum(".." in str(one) or "secret" in str(one) for one in found)
    return Figure(count, healthy=count == 0 and len(found) == 1)


PATCH = Patch(
    module=__name__,
    title="A folder's metadata can make datasets read files outside that folder",
    severity="security",
    guard=True,
    targets=("datasets.packaged_modules.folder_based_builder.folder_based_builder",),
    affects=("datasets<5.0.1",),
    links=("https://nvd.nist.gov/vuln/detail/CVE-2026-66007",),
    measures="files outside a folder that its metadata makes part of the dataset (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
