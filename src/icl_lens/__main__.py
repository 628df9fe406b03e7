"""``python -m icl_lens`` is ``icl-lens``."""

import sys

from icl_lens.cli.commands import main

sys.exit(main())
