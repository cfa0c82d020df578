"""Work that several threads do ahead of whoever needs it, such as decoding images before a network sees them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], limit: int) -> Iterator[R]:
    """The results of items in order, like ``map``; the next ones are worked on by as many threads as there are cores.

    Args:
        work: Called from several threads.
        items: Taken one by one, in the caller's thread.
        limit: The most items that are taken before their results are asked for.
    """
    workers = ThreadPoolExecutor(os.cpu_count())
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(workers.submit(work, item))
            if len(waiting) > limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        workers.shutdown(cancel_futures=True)
