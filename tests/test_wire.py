"""Frames on a pipe, however the bytes come; how long a worker stays awake; when it has done enough."""

from __future__ import annotations

import os
import select

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit._wire import serving
from parallelkit._wire.claims import Allowance
from parallelkit._wire.frames import PIECE_BYTES, Frame, FrameReader, FrameWriter, Kind, SharedWriter
from parallelkit._wire.serving import LOOKOUT_SECONDS, Lookout

numbers = st.integers(-(2**63), 2**63 - 1)
frames = st.builds(
    Frame,
    st.sampled_from(list(Kind)),
    st.integers(0, 255),
    st.integers(0, 65535),
    numbers,
    numbers,
    numbers,
    st.floats(0, 1e6),
    st.binary(max_size=200),
    st.binary(max_size=200) | st.just(bytes(100_000)),
)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def written(frame):
    return b"".join(frame.parts(frame.slot, with_body=True))


class TestReading:
    @given(st.lists(frames, max_size=6), st.data())
    def test_frames_are_the_same_however_their_bytes_come(self, sent, data):
        stream = b"".join(map(written, sent))
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
        to_read, to_write = os.pipe()
        try:
            os.set_blocking(to_read, False)
            reader, came = FrameReader(to_read), []
            for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                for at in range(start, stop, 4096):  # less than a pipe holds
                    os.write(to_write, stream[at : min(at + 4096, stop)])
                    came += read_all(reader)
        finally:
            os.close(to_read)
            os.close(to_write)
        assert came == sent

    def test_the_end_is_told_from_nothing_yet(self):
        to_read, to_write = os.pipe()
        os.set_blocking(to_read, False)
        reader = FrameReader(to_read)
        with pytest.raises(BlockingIOError):
            reader.read()
        os.close(to_write)
        with pytest.raises(EOFError):
            reader.read()
        os.close(to_read)

    def test_a_body_that_the_other_side_knows_is_left_out(self):
        frame = Frame(Kind.CHUNK, number=7, body=b"function", extra=b"items")
        assert b"function" not in b"".join(frame.parts(3, with_body=False))
        assert b"items" in b"".join(frame.parts(3, with_body=False))


def read_all(reader):
    came = []
    try:
        while True:
            came += reader.read()
    except BlockingIOError:
        return came


class TestWriting:
    def test_what_a_pipe_does_not_take_waits_and_keeps_its_order(self, pipe):
        to_read, to_write = pipe
        for fd in pipe:
            os.set_blocking(fd, False)
        reader, writer = FrameReader(to_read), FrameWriter(to_write)
        sent = [Frame(Kind.CHUNK, number=number, extra=bytes([number]) * 50_000) for number in range(20)]
        at_once = [writer.write(frame) for frame in sent]
        assert at_once[0]
        assert not at_once[-1]
        assert writer.waits
        came = []
        while len(came) < len(sent):
            came += read_all(reader)
            writer.flush()
        assert came == sent
        assert not writer.waits


class TestWritingByMany:
    def test_what_comes_from_inside_of_a_write_comes_after_it(self, pipe, monkeypatch):
        writer = SharedWriter(pipe[1])
        inner = [Frame(Kind.TOLD, number=number, extra=b"inner") for number in range(3)]
        left = inner.copy()

        def writev(fd, parts, plain=os.writev):  # a signal handler comes in between, after a part
            if left:
                writer.write(left.pop(0))
            return plain(fd, [bytes(part)[:1000] for part in parts[:1]])

        monkeypatch.setattr(os, "writev", writev)
        outer = Frame(Kind.SETTLED, number=99, body=bytes(5000), extra=bytes(3000))
        writer.write(outer)
        os.set_blocking(pipe[0], False)
        assert read_all(FrameReader(pipe[0])) == [outer, *inner]

    def test_what_comes_at_the_very_end_of_a_write_is_not_left_behind(self, pipe):
        writer = SharedWriter(pipe[1])
        late = [Frame(Kind.TOLD, number=1), Frame(Kind.TOLD, number=2)]

        class Lock:
            """A signal comes when nobody looks any more, and the lock is not free yet."""

            def __init__(self):
                self.held = False

            def __enter__(self):
                self.held = True

            def __exit__(self, *exc):
                if late:
                    writer.write(late.pop(0))
                self.held = False

            def _is_owned(self):
                return self.held

        writer._lock = Lock()
        writer.write(Frame(Kind.SETTLED, number=0))
        os.set_blocking(pipe[0], False)
        assert [frame.number for frame in read_all(FrameReader(pipe[0]))] == [0, 1, 2]

    @pytest.mark.parametrize("size", [0, 1, PIECE_BYTES])
    def test_a_piece_is_written_at_a_stroke(self, monkeypatch, size):
        written = []
        monkeypatch.setattr(os, "writev", lambda fd, parts: written.append(parts) or sum(map(len, parts)))
        SharedWriter(0).write(Frame(Kind.TOLD, extra=bytes(size)))
        ((part,),) = written
        assert len(part) <= select.PIPE_BUF


class Clock:
    """Time goes on by a tenth of the patience at each look at it."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(serving, "perf_counter", self)

    def __call__(self):
        self.now += LOOKOUT_SECONDS / 10
        return self.now


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the worker always sleeps here")
class TestLookingOut:
    @pytest.fixture(autouse=True)
    def two_cores(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})

    def test_is_not_done_before_the_first_chunk(self, monkeypatch, pipe):
        clock = Clock(monkeypatch)
        Lookout(pipe[0]).look()
        assert clock.now == pytest.approx(LOOKOUT_SECONDS / 10), "one look at the clock"

    def test_ends_when_it_took_too_long_and_is_not_done_again(self, monkeypatch, pipe):
        clock = Clock(monkeypatch)
        lookout = Lookout(pipe[0])
        lookout.look()
        lookout.note()  # it came at once
        before = clock.now
        lookout.look()
        assert clock.now - before > LOOKOUT_SECONDS
        lookout.note()  # it came late
        before = clock.now
        lookout.look()
        assert clock.now - before < LOOKOUT_SECONDS

    @pytest.mark.parametrize("what", ["something to read", "the end"])
    def test_sees(self, monkeypatch, what):
        clock = Clock(monkeypatch)
        to_read, to_write = os.pipe()
        lookout = Lookout(to_read)
        lookout.look()
        lookout.note()
        if what == "the end":
            os.close(to_write)
        else:
            os.write(to_write, b"x")
        before = clock.now
        lookout.look()
        assert clock.now - before < LOOKOUT_SECONDS / 2
        os.close(to_read)
        if what != "the end":
            os.close(to_write)

    def test_is_never_done_on_one_core(self, monkeypatch, pipe):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
        clock = Clock(monkeypatch)
        lookout = Lookout(pipe[0])
        lookout.look()
        lookout.note()
        before = clock.now
        lookout.look()
        assert clock.now - before < LOOKOUT_SECONDS


class TestAllowance:
    """How many tasks a worker may start: a task is so many items of one work, or a chunk."""

    def test_without_a_limit_all_is_allowed(self):
        allowance = Allowance(None)
        allowance.begin(1, 1, 10)
        assert allowance.take(10) == 10
        assert not allowance.spent

    def test_items_of_one_work_fill_a_task_over_several_chunks(self):
        allowance = Allowance(2)
        taken = []
        for _ in range(4):
            allowance.begin(1, 5, 3)
            taken.append(allowance.take(3))
        assert taken == [3, 3, 3, 1]
        assert allowance.spent

    def test_what_is_left_of_a_task_is_of_no_use_to_other_work(self):
        allowance = Allowance(2)
        allowance.begin(1, 5, 1)
        assert allowance.take(1) == 1
        allowance.begin(2, 1, 9)
        assert allowance.take(9) == 1
        assert allowance.spent

    def test_a_chunk_is_one_task_however_long_it_is(self):
        allowance = Allowance(3)
        taken = []
        for items in (4, 4, 1, 4):
            allowance.begin(1, None, items)
            taken += [allowance.take(1), allowance.take(items - 1)] if items > 1 else [allowance.take(1)]
        assert taken == [1, 3, 1, 3, 1, 0, 0]
        assert allowance.spent
