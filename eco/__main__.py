import sys

from eco.cli import main

sys.exit(main())
