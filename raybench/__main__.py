"""`python -m raybench`: the command line."""

import sys

from raybench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
