"""The train command on a slow disk: removing and hashing take long enough to be killed in.

python killed.py --config ... --workdir ...
"""

import os
import sys
import time

from big_vit_lite import train
from big_vit_lite.checkpoint import manifest


def slowly(function, seconds):
    def slow(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)

    return slow


if __name__ == "__main__":
    os.unlink = slowly(os.unlink, 0.01)
    os.rmdir = slowly(os.rmdir, 0.01)
    manifest._sha256 = slowly(manifest._sha256, 0.005)
    sys.exit(train.main(sys.argv[1:]))
