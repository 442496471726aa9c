import sys

from usernsctl.cli import main

sys.exit(main())
