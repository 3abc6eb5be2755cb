"""Runs commands one after the other in the same processes, for a start-up takes most of the time.

python in_turn.py '[["MODULE", "WORD", ...], ...]' PLACE: PLACE (--coordinator and so on) goes to
the first, which joins the processes; the exit code is the first that is not 0.
"""

import importlib
import json
import sys

from big_vit_lite import parallel

if __name__ == "__main__":
    place = sys.argv[2:]
    for module, *words in json.loads(sys.argv[1]):
        code = importlib.import_module(module).main([*words, *place])
        if code:
            sys.exit(code)
        place = []
        parallel.join = lambda options: None  # they are together
