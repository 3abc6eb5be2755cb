"""Lines of a command that goes once through many examples: how far, how fast, how long."""

import io
from types import SimpleNamespace

from big_vit_lite.report import Counting


def test_lines_have_speed_and_time_left_of_this_process_alone():
    now, stream = [100.0], io.StringIO()
    counting = Counting("images", stream, clock=lambda: now[0])

    def update(seconds, done, skipped=0):
        now[0] = 100 + seconds
        counting.update(SimpleNamespace(total=1000, done=done, skipped=skipped))

    update(1, 400)  # an earlier process has done them
    update(5, 450)
    update(11, 500)
    update(12, 510)
    update(65, 1000, skipped=2)
    counting.close()
    assert stream.getvalue().splitlines() == [
        "500/1,000 images, 11 s, 10 images/s, 50 s left",
        "1,000/1,000 images, 2 left out, 1 min 05 s, 9.38 images/s",
    ]


def test_what_takes_one_batch_has_no_speed():
    stream = io.StringIO()
    counting = Counting(stream=stream, clock=lambda: 0.0)
    counting.update(SimpleNamespace(total=9, done=9, skipped=0))
    assert stream.getvalue() == "9/9 examples, 0 s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_bar_has_them():
    now, stream = [0.0], Terminal()
    counting = Counting("images", stream, clock=lambda: now[0])
    for seconds, done in ((0, 0), (2, 500), (4, 1000)):
        now[0] = float(seconds)
        counting.update(SimpleNamespace(total=1000, done=done, skipped=1))
    counting.say("a line above it")
    counting.close()
    text = stream.getvalue()
    assert "1000/1000" in text and "250 images/s, 1 left out" in text and "a line above it" in text
