"""The addresses that the metadata holds: all from one, ``address`` of the hook in ``pyproject.toml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Addresses(MetadataHookInterface):
    """Sets the project's URLs, and makes the README's links to its files ones that lead there from an index.

    Where there is no address yet there are no URLs, and the README is as it lies.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        """Add ``readme`` and ``urls``."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if address := self.config["address"].rstrip("/"):
            metadata["urls"] = {
                "Source": address,
                "Issues": f"{address}/issues",
                "Documentation": f"{address}/tree/main/docs",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
            }
            text = re.sub(r"\]\((?!\w+:|#)", f"]({address}/blob/main/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
