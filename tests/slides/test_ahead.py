"""Work in threads comes back in order, and stops with the caller."""

import threading
import time

import pytest

from histograph.slides.ahead import work_ahead


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 2), (3, 7)])
def test_order_is_that_of_the_items(workers, ahead):
    def slow_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(work_ahead(slow_first, range(20), workers, ahead)) == [i * i for i in range(20)]


def test_no_more_than_ahead_is_begun_beyond_what_was_taken():
    begun = []
    results = work_ahead(lambda i: begun.append(i) or i, range(100), workers=2, ahead=3)
    assert next(results) == 0
    time.sleep(0.05)
    assert max(begun) <= 3
    results.close()


def test_an_early_stop_cancels_the_queue():
    begun, gate = [], threading.Event()

    def work(i):
        begun.append(i)
        if i:
            gate.wait(5)
        return i

    results = work_ahead(work, range(50), workers=1, ahead=10)
    next(results)
    threading.Timer(0.05, gate.set).start()
    results.close()
    assert len(begun) <= 3


def test_an_error_reaches_the_caller():
    def work(i):
        if i == 2:
            raise OSError("no pixels")
        return i

    with pytest.raises(OSError, match="no pixels"):
        list(work_ahead(work, range(9), workers=2, ahead=2))


def test_work_is_told_when_the_caller_stops():
    stop = threading.Event()

    def work(i):
        return stop.wait(5) if i else False

    results = work_ahead(work, range(9), workers=2, ahead=2, stop=stop)
    next(results)
    start = time.monotonic()
    results.close()
    assert stop.is_set() and time.monotonic() - start < 4
    whole = threading.Event()
    assert list(work_ahead(abs, [1, -2], workers=1, ahead=1, stop=whole)) == [1, 2] and whole.is_set()
