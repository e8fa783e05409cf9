"""``python -m sb3_clanker`` is ``sb3-clanker``."""

import sys

from sb3_clanker.cli.main import main

sys.exit(main())
