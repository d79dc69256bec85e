"""An upstream's test that fails with the hooks only is found, by its name, and no other."""

from __future__ import annotations

import subprocess
import sys
import tarfile

from conftest import HERE

SUITE = """
import os, unittest
from pathlib import Path

HOOKS = os.environ["ZOO_HOOKS"] != "0"

class Test(unittest.TestCase):
    def test_right(self):
        assert True

    def test_wrong_either_way(self):
        assert False

    def test_wrong_with_hooks(self):
        assert not HOOKS

    def test_wrong_without(self):
        assert HOOKS

    def test_wrong_in_part(self):
        for part in (1, 2):
            with self.subTest(f"part {part}"):
                assert part == 1 or not HOOKS

    def test_wrong_now_and_then(self):
        file = Path(__file__).with_name("once")
        if HOOKS and not file.exists():
            file.touch()
            assert False
"""


def test_what_fails_with_the_hooks_only_is_listed_and_red(tmp_path):
    """Subtests too; what fails either way, without them, or now and then, is not."""
    suite = tmp_path / "upstream-1.0" / "tests"
    suite.mkdir(parents=True)
    given = tmp_path / "test_given.py"
    given.write_text(SUITE)
    with tarfile.open(tmp_path / "upstream-1.0.tar.gz", "w") as archive:
        archive.add(suite.parent, arcname="upstream-1.0")
    command = [sys.executable, HERE / "upstream_suites.py", tmp_path / "upstream-1.0.tar.gz", given]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    found = [line.partition("::Test::")[2] for line in run.stdout.splitlines() if line.startswith("fails")]
    assert found == ["test_wrong_in_part part 2", "test_wrong_with_hooks"]
