"""What the package index knows: which releases there are, and when they came out."""

from __future__ import annotations

import os
from datetime import date

from packaging.version import Version
from pypi_simple import PYPI_SIMPLE_ENDPOINT, PyPISimple


def released(name: str, *, source: bool = False) -> dict[str, date]:
    """Releases of a distribution with the day of their first file, oldest version first.

    Without pre-releases, and without what has been withdrawn. With ``source``, only those with an sdist.
    """
    with PyPISimple(os.environ.get("PIP_INDEX_URL", PYPI_SIMPLE_ENDPOINT)) as index:
        files = index.get_project_page(name).packages
    days: dict[str, date] = {}
    for file in files:
        if (
            file.version
            and file.upload_time
            and not file.is_yanked
            and not Version(file.version).is_prerelease
            and (not source or file.package_type == "sdist")
        ):
            day = file.upload_time.date()
            days[file.version] = min(day, days.get(file.version, day))
    return dict(sorted(days.items(), key=lambda release: Version(release[0])))
