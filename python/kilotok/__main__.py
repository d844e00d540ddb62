"""``python -m kilotok`` is the `kilotok` command."""

import sys

from kilotok.cli import main

sys.exit(main())
