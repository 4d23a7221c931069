import threading

import pytest

from napari_volseg.pipeline import WriteBehind, read_ahead, reports_of


def test_items_come_in_order_and_no_more_are_made_than_asked_for():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    for i in read_ahead(items(), 2):
        assert i in made
        assert len(made) <= i + 1 + 2
    assert made == list(range(10))


def test_an_error_comes_where_its_item_would():
    def items():
        yield 1
        yield 2
        raise OSError("gone")

    ahead = read_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def test_closing_ends_the_thread():
    before = threading.active_count()
    ahead = read_ahead(iter(range(1000)))
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before


def test_what_is_written_is_written_in_order_before_the_end():
    written = []
    with WriteBehind(written.append, 2) as writer:
        for i in range(20):
            writer.put(i)
    assert written == list(range(20))
    assert writer.take_written() == list(range(20))


def test_a_failed_write_is_raised_and_nothing_after_it_is_written():
    written = []

    def write(item):
        if item == 3:
            raise OSError(28, "No space left on device")
        written.append(item)

    def put_all(writer):
        with writer:
            for i in range(1000):
                writer.put(i)

    writer = WriteBehind(write, 1)
    with pytest.raises(OSError, match="No space"):
        put_all(writer)
    assert written == [0, 1, 2]
    assert writer.take_written() == [0, 1, 2]


def test_another_error_is_not_hidden_and_what_waits_is_written():
    written = []

    def fail(writer):
        with writer:
            writer.put(1)
            writer.put(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(WriteBehind(written.append, 4))
    assert written == [1, 2]


def test_work_reports_and_returns():
    def work(report):
        for i in range(3):
            report(i)
        return "done"

    steps = reports_of(work, tick=10)
    assert [next(steps), next(steps), next(steps)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "done"


def test_work_ends_at_its_next_report_when_nobody_listens():
    reached = []
    go_on = threading.Event()

    def work(report):
        report(1)
        go_on.wait(10)
        report(2)
        reached.append(True)

    steps = reports_of(work, tick=10)
    assert next(steps) == 1
    threading.Timer(0.01, go_on.set).start()
    steps.close()
    assert not reached


def test_an_error_of_the_work_is_raised():
    def work(report):
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(reports_of(work))


def test_silence_is_a_tick():
    go_on = threading.Event()
    steps = reports_of(lambda report: go_on.wait(10), tick=0.001)
    assert next(steps) is None
    go_on.set()
    assert not any(steps)
