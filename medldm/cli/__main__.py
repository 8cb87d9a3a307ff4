"""`python -m medldm.cli`."""

import sys

from medldm.cli.main import main

sys.exit(main())
