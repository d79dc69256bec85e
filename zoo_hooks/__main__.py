"""``python -m zoo_hooks`` is the command ``zoo-hooks``, for installations without its script."""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the current folder: what lies there is not what is installed

from zoo_hooks.tool.cli import main

sys.exit(main())
