"""Let the running environment import what another one has installed.

One line in a .pth file, so that many environments can share one with torch; what an environment
has itself comes first.
"""

import sys
import sysconfig
from pathlib import Path

(base,) = Path(sys.argv[1]).glob("[Ll]ib/**/site-packages")
Path(sysconfig.get_path("purelib"), "zz_base.pth").write_text(f"{base}\n")
