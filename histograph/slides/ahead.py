"""Work on tiles in threads, a few ahead of the caller, and hand the results over in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    stop: Event | None = None,
) -> Generator[Result, None, None]:
    """Yield `work(item)` for every item, in order, with few results in memory at a time.

    When the caller stops early, or a call raises, what is queued is cancelled and what runs is waited for.

    Parameters
    ----------
    work : callable
        Called in a thread with one item.
    items : iterable
        What to work on.
    workers : int
        Threads, at least 1.
    ahead : int
        At most this many results wait while the caller has one.
    stop : threading.Event, optional
        Set at the end, before what runs is waited for: work that takes long may look at it and give up.

    Yields
    ------
    Result
        One result an item.

    Examples
    --------
    >>> list(work_ahead(abs, [-3, 1, -2], workers=2, ahead=2))
    [3, 1, 2]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="histograph")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if stop is not None:
            stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
