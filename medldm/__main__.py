"""`python -m medldm`: the command `medldm`."""

import sys

from medldm.cli.main import main

sys.exit(main())
