"""Work that threads share comes back in order, and none of it goes on unasked."""

from threading import Barrier, Event, Lock

import pytest

from napari_volseg.processors import map_in_order


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_the_order_of_the_items(threads):
    assert list(map_in_order(lambda n: n * n, range(20), threads)) == [
        n * n for n in range(20)
    ]
    assert list(map_in_order(str, [], threads)) == []


def test_threads_work_side_by_side():
    both = Barrier(2, timeout=60)
    assert sorted(map_in_order(lambda _: both.wait(), range(2), 2)) == [0, 1]


def test_few_items_are_taken_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = map_in_order(lambda n: n, items(), 2)
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()


def test_what_fails_ends_all_of_it():
    begun, lock, may_go_on = [], Lock(), Event()

    def work(n):
        with lock:
            begun.append(n)
        if n == 1:
            raise ValueError("one")
        if n > 1:
            may_go_on.wait(60)
        return n

    results = map_in_order(work, range(100), 2)
    assert next(results) == 0
    may_go_on.set()
    with pytest.raises(ValueError, match="one"):
        next(results)
    # Those that waited are left, and none runs any more.
    assert len(begun) <= 6
    assert list(results) == []
