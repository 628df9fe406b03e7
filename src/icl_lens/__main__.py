"""Entry point of ``python -m icl_lens``, which is equivalent to the command ``icl-lens``."""

import sys

from icl_lens.cli.commands import main

sys.exit(main())
