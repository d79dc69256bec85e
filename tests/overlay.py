"""Let the running environment import what others have installed.

A line for each in a .pth file, so that many environments can share one with torch; what an environment
has itself comes first, then the others in their order.
"""

import sys
import sysconfig
from pathlib import Path

lines = [f"{folder}\n" for other in sys.argv[1:] for folder in Path(other).glob("[Ll]ib/**/site-packages")]
assert len(lines) == len(sys.argv[1:])
Path(sysconfig.get_path("purelib"), "zz_base.pth").write_text("".join(lines))
