"""`python -m bequest`."""

import sys

from bequest.cli.main import main

sys.exit(main())
