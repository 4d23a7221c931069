"""``python -m napari_volseg`` is the command line, and the worker process."""

import sys

from napari_volseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
