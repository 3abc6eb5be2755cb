"""Joins the other processes and waits, or fails: python joined.py --coordinator ...

What a process of a training is while it waits for the others, without a training.
"""

import sys
import time

from big_vit_lite import config, parallel
from big_vit_lite.checkpoint import StopRequest
from big_vit_lite.exit_codes import STOPPED
from big_vit_lite.parallel import cluster, failure

OPTIONS = (
    *parallel.OPTIONS,
    config.Option("fails", "I", "The process that fails.", int),
    config.Option("start", "SECONDS", "How long to wait for the others.", int),
)


def command():
    options, _ = config.options_line(sys.argv[1:], program="", about="", options=OPTIONS)
    cluster.START_SECONDS = options.get("start", 60)
    cluster.SILENT_SECONDS = 1000  # what they print is compared, on however busy a machine
    parallel.join(options)
    print("joined", flush=True)
    if options.get("fails") == options["process"]:
        raise config.RunError("this one failed")
    time.sleep(60)


if __name__ == "__main__":
    failure.END_SECONDS, failure.FOLLOW_SECONDS = 2, 0
    with StopRequest(at_start=STOPPED):
        sys.exit(parallel.ending(command))
