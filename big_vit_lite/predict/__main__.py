"""`python -m big_vit_lite.predict`."""

import sys

from big_vit_lite.predict.command import main

if __name__ == "__main__":
    sys.exit(main())
