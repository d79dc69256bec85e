"""A line in pytest's header, an option that switches the hooks off, and ``%load_ext zoo_hooks.plugin``.

pytest imports this module at its start, so it imports nothing at its top.
"""

import zoo_hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pytest_addoption(parser: "Any") -> None:
    """Add the option ``--zoo-hooks-off``."""
    parser.getgroup("zoo-hooks").addoption(
        "--zoo-hooks-off", action="store_true", help="run without any repair, as with ZOO_HOOKS=0"
    )


def pytest_configure(config: "Any") -> None:
    """Switch zoo-hooks off in this process and those that the tests start, and undo the repairs."""
    if config.getoption("--zoo-hooks-off"):
        import os

        os.environ["ZOO_HOOKS"] = "0"
        if zoo_hooks._arming is not None:  # noqa: SLF001 - something has been imported that may be repaired
            for row in zoo_hooks.report():
                if row.status.name in ("APPLIED", "OVERWRITTEN"):
                    zoo_hooks.revert(row.id)


def pytest_report_header(config: "Any") -> str:
    """Say how a run differs from one without zoo-hooks."""
    import os

    words = os.environ.get("ZOO_HOOKS", "")
    if config.getoption("--zoo-hooks-off"):
        return f"zoo-hooks: {zoo_hooks.__version__}, off (--zoo-hooks-off)"
    state = "active" if zoo_hooks.installed() else "not active"
    return f"zoo-hooks: {zoo_hooks.__version__}, {state}" + (f", ZOO_HOOKS={words}" if words else "")


def load_ipython_extension(ipython: "Any") -> None:  # noqa: ARG001
    """Repair what the kernel imported before zoo-hooks was installed, and print what is active."""
    zoo_hooks.activate()
    zoo_hooks.log()
