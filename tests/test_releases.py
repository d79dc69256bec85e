"""Which other releases would do better."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from zoo_hooks import catalogue, releases

SOME = catalogue.everything()[0]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Distributions, each by its version and what it requires."""

    def install(name, version, *requires):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )

    monkeypatch.syspath_prepend(tmp_path)
    return install


@pytest.mark.parametrize(
    ("affects", "expected"),
    [
        (["transformers>=5.3", "trl>=0.16.1,<0.27"], ["trl>=0.27"]),
        (["triton>=3.6.0,<=3.9.0", "torch>=2.8,<2.10"], ["triton>3.9.0", "torch>=2.10"]),
        (["peft>=0.19.0", "transformers==5.0.0"], ["transformers>5.0.0"]),
        (["peft>=0.21.2", "transformers>=5.5.0"], []),
        (['multiprocess>=0.70.18; python_full_version == "3.12.0"'], ["python>3.12.0"]),
    ],
)
def test_the_upper_ends_of_a_claim_are_what_retires_it(affects, expected):
    """The side that has one is behind; a bug that is open in the newest has none."""
    assert releases.fixed_in(replace(SOME, affects=tuple(affects))) == expected


@pytest.mark.parametrize("patch", catalogue.everything(), ids=lambda patch: patch.id)
def test_no_release_that_retires_a_patch_is_within_its_claim(patch):
    """Whatever an upgrade names lies outside of what the patch is for."""
    claims = {claim.name: claim.specifier for claim in map(Requirement, patch.affects)}
    for upgrade in map(Requirement, releases.fixed_in(patch)):
        (bound,) = upgrade.specifier
        if bound.operator == ">=" and upgrade.name in claims:
            assert not claims[upgrade.name].contains(bound.version, prereleases=True)


def test_an_upgrade_that_is_installed_is_known_with_its_version(installed):
    """Also with a local part; not one that is older, nor one of what is not installed, such as Python."""
    installed("zoo-companion", "2.13.0+cpu")
    assert releases.met("zoo-companion>=2.10.0") == "2.13.0+cpu"
    assert releases.met("zoo-companion>2.13.0") is None
    assert releases.met("zoo-absent>=1") is None
    assert releases.met("python>3.12.0") is None


def test_a_package_that_does_not_fit_is_named_with_what_fits(installed):
    """Both versions, and the command; extras and packages that are not there are none of it."""
    installed("zoo-upstream", "5.0", "zoo-companion<3,>=2", "zoo-absent", "zoo-companion>9; extra == 'more'")
    installed("zoo-companion", "1.2.0")
    (told,) = releases.misfits(["zoo_upstream", "zoo_absent"])
    assert told.startswith("zoo_upstream 5.0 does not work with zoo-companion 1.2.0")
    assert "pip install 'zoo-companion<3,>=2'" in told


def test_packages_that_fit_are_not_spoken_of(installed):
    """Prereleases are within their bounds."""
    installed("zoo-upstream", "5.0", "zoo-companion>=2")
    installed("zoo-companion", "3.0rc1")
    assert not list(releases.misfits(["zoo_upstream"]))
