"""What a command's exit code tells whoever started it. 0: done, 1: failed, 2: wrong input.

Without imports, as signals count before those are over.
"""

STOPPED = 3
"""A signal stopped the run: what there was to save is saved, and the same command goes on."""

PEER_ENDED = 4
"""Another process of the run ended, or did not come: the machine's fault or that process's, so the
same command goes on."""
