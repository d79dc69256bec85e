"""``python -m zoo_hooks`` is the command ``zoo-hooks``, for installations without its script."""

import sys

from zoo_hooks.cli import main

sys.exit(main())
