"""``python -m llamaindex_code_retrieval.cli``."""

import sys

from llamaindex_code_retrieval.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
