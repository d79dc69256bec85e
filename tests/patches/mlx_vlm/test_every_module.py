"""Every model of the newest mlx-vlm and mlx-lm can be imported, with the hooks, beside the newest mlx."""

from __future__ import annotations

import json

import pytest
from conftest import VERDICTS, python

from zoo_hooks import ledger

NEWEST = list(VERDICTS["mlx_vlm"])[-1]
OPTIONAL = {"mlx_audio", "cv2", "torch"}
"""What single models need besides: torch only to convert weights."""


@pytest.mark.skipif(ledger.version("mlx_vlm") != NEWEST, reason=f"is about {NEWEST}")
def test_only_optional_packages_are_missing():
    """Whatever else fails is drift. olmo ends the process when ai2-olmo is not installed."""
    failed = json.loads(
        python(
            """
            import importlib, json, pkgutil
            failed = {}
            for package in map(importlib.import_module, ("mlx_vlm.models", "mlx_lm.models")):
                names = pkgutil.walk_packages(package.__path__, package.__name__ + ".", lambda _: None)
                for name in (module.name for module in names):
                    try:
                        importlib.import_module(name)
                    except (Exception, SystemExit) as error:
                        failed[name] = getattr(error, "name", None) or repr(error)
            print(json.dumps(failed))
            """,
            timeout=600,
        ).splitlines()[-1]
    )
    assert failed.pop("mlx_lm.models.olmo").startswith("SystemExit")
    assert set(failed.values()) <= OPTIONAL, failed
