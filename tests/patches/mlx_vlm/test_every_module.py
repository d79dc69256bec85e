"""Every model of the newest mlx-vlm and mlx-lm can be imported, with the hooks, beside the newest mlx."""

from __future__ import annotations

import json

import pytest
from conftest import ATLAS, python

from zoo_hooks import releases

NEWEST = ATLAS.versions("mlx-vlm")[-1]
OPTIONAL = {"mlx_audio", "cv2", "torch"}
"""What single models need besides: torch only to convert weights."""


@pytest.mark.skipif(releases.version("mlx_vlm") != NEWEST, reason=f"is about {NEWEST}")
def test_only_optional_packages_are_missing():
    """Each file is tried; whatever else fails is drift. olmo ends the process where ai2-olmo is absent."""
    failed, tried = json.loads(
        python(
            """
            import importlib, json, pathlib
            failed, tried = {}, {}
            for package in map(importlib.import_module, ("mlx_vlm.models", "mlx_lm.models")):
                here = pathlib.Path(package.__path__[0])
                files = [file.relative_to(here).with_suffix("") for file in sorted(here.rglob("*.py"))]
                names = [".".join((package.__name__, *file.parts)) for file in files]
                names = [name.removesuffix(".__init__") for name in names]
                tried[package.__name__] = len(names) - 1
                for name in names:
                    try:
                        importlib.import_module(name)
                    except (Exception, SystemExit) as error:
                        failed[name] = getattr(error, "name", None) or repr(error)
            print(json.dumps([failed, tried]))
            """,
            timeout=600,
        ).splitlines()[-1]
    )
    print(f"{tried} modules, of which {len(failed)} cannot be imported: {failed}")
    assert failed.pop("mlx_lm.models.olmo").startswith("SystemExit")
    assert set(failed.values()) <= OPTIONAL, failed
