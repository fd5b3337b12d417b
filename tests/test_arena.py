"""Memory through which large buffers travel: what is held is not overwritten, what is not held is free."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import stat
import sys
import threading
from array import array
from functools import partial
from pickle import PickleBuffer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit import SerializationError
from parallelkit._wire import arena as arenas
from parallelkit._wire import placing, shared_blocks
from parallelkit._wire.arena import Arena, new_arena, triples
from parallelkit._wire.originals import LEAST_BYTES, Memory
from parallelkit._wire.placing import OutOfBand, Writer, size_class, whole
from parallelkit._wire.shared_blocks import SharedBlocks
from programs.areas import WORKERS, address_of, free_blocks, mapped_again, written

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def arena() -> Any:
    made = Arena(WORKERS)
    yield made
    made.close()


def test_a_free_block_is_used_again(arena: Arena) -> None:
    writer, reader = Writer(arena, 0), mapped_again(arena)
    for _ in range(50):
        view = reader.views(0, written(writer, bytes(1 << 20)))[0]
        del view
    assert writer._count == 1


def test_what_is_made_of_a_view_keeps_its_block(arena: Arena) -> None:
    import numpy as np

    writer, reader = Writer(arena, 0), mapped_again(arena)
    place = written(writer, b"\1" * (1 << 20))
    array = np.frombuffer(reader.views(0, place)[0], np.uint8)[5:10]
    other = reader.views(0, written(writer, b"\2" * (1 << 20)))
    assert array.sum() == 5
    assert writer._count == 2
    del array, other
    gc.collect()
    assert free_blocks(writer) == 2


def test_a_reader_may_write(arena: Arena) -> None:
    view = mapped_again(arena).views(0, written(Writer(arena, 0), bytes(1 << 20)))[0]
    view[:3] = b"abc"
    assert bytes(view[:4]) == b"abc\0"


def test_a_buffer_that_is_read_only_arrives_so(arena: Arena) -> None:
    import numpy as np

    writer, array = Writer(arena, 0), np.arange(1e5)
    array.flags.writeable = False
    buffers = OutOfBand(writer)
    pickled = buffers.rest(pickle.dumps(array, 5, buffer_callback=buffers))
    loaded = pickle.loads(pickled, buffers=arena.views(0, buffers.places.tobytes()))
    assert (loaded == array).all()
    assert not loaded.flags.writeable


def test_small_buffers_stay_in_the_pickle(arena: Arena) -> None:
    buffers = OutOfBand(Writer(arena, 0))
    assert buffers(PickleBuffer(bytes(LEAST_BYTES - 1)))
    assert not buffers(PickleBuffer(bytes(LEAST_BYTES)))
    assert [size for *_, size in triples(buffers.places)] == [LEAST_BYTES]


def test_a_large_pickle_does_not_stay_in_the_pipe(arena: Arena) -> None:
    items = [bytearray(LEAST_BYTES), "x" * LEAST_BYTES]
    buffers = OutOfBand(Writer(arena, 0))
    assert buffers.rest(b"small") == b"small"
    pickled = pickle.dumps([PickleBuffer(items[0]), items[1]], 5, buffer_callback=buffers)  # type: ignore[arg-type]
    assert not buffers.rest(pickled)
    views = mapped_again(arena).views(0, buffers.places.tobytes())
    found, rest = whole(b"", views)
    assert pickle.loads(found, buffers=rest) == items
    assert whole(pickled, views) == (pickled, views)
    buffers.undo()
    assert buffers.rest(pickle.dumps(1)) == pickle.dumps(1)


def test_above_the_budget_buffers_stay_in_the_pickle(arena: Arena) -> None:
    arena.layout = (*arena.layout[:2], 4 << 20)
    writer = Writer(arena, 0)
    views = []
    buffers = OutOfBand(writer)
    while not buffers(PickleBuffer(bytes(1 << 20))):
        pass
    assert len(list(triples(buffers.places))) == 4
    views = arena.views(0, buffers.places.tobytes())
    del views
    assert not OutOfBand(writer)(PickleBuffer(bytes(4 << 20))), "free blocks of another size give way"


@pytest.mark.parametrize(
    "size", [1, 4095, 4096, 4097, LEAST_BYTES, 8 << 20, (8 << 20) + 1, (1 << 33) + 12345]
)
def test_sizes_of_blocks(size: int) -> None:
    block = size_class(size)
    assert size <= block < max(size * 9 / 8 + 4096, size + 4096)
    assert block % 4096 == 0
    assert size_class(block) == block


def pages(arena: Arena) -> int:
    """Bytes that the file takes."""
    return os.fstat(arena.fd).st_blocks * 512


def test_trimming_gives_memory_back(arena: Arena) -> None:
    writer = Writer(arena, 0)
    for _ in range(3):
        view = arena.views(0, written(writer, bytes(4 << 20)))
        assert pages(arena) >= 4 << 20
        del view
        writer.trim()
        assert pages(arena) < 1 << 20
        assert not arena.tables[0]


def test_closing_gives_memory_back_but_for_what_is_held(arena: Arena) -> None:
    writer = Writer(arena, 0)
    places = [written(writer, bytes([number]) * (4 << 20)) for number in range(3)]
    views = [arena.views(0, place)[0] for place in places]
    file = os.dup(arena.fd)
    try:
        del views[0]
        arena.close()
        assert os.fstat(file).st_blocks * 512 < 9 << 20
        assert views[0] == b"\1" * (4 << 20)
        del views[0]
        assert os.fstat(file).st_blocks * 512 < 5 << 20
        assert views[0] == b"\2" * (4 << 20)
    finally:
        os.close(file)


def test_without_memory_of_this_kind_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError("no such memory")

    monkeypatch.setattr(arenas, "nameless_memory", refuse)
    assert new_arena(2) is None


def test_nobody_else_may_read_it(arena: Arena) -> None:
    assert stat.S_IMODE(os.fstat(arena.fd).st_mode) == 0o600


def test_named_shared_memory_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    before = set(os.listdir("/dev/shm"))
    arena = new_arena(2)
    assert arena is not None
    assert not [name for name in set(os.listdir("/dev/shm")) - before if name.startswith("psm_")]
    assert stat.S_IMODE(os.fstat(arena.fd).st_mode) == 0o600
    content = os.urandom(1 << 20)
    assert mapped_again(arena).views(0, written(Writer(arena, 0), content))[0] == content
    arena.close()


def test_what_a_dead_worker_wrote_is_free_even_if_nobody_had_read_anything(arena: Arena) -> None:
    dead = mapped_again(arena)
    written(Writer(dead, 1), bytes(LEAST_BYTES))
    arena.forget_writer(1)
    successor = Writer(mapped_again(arena), 1)
    written(successor, bytes(LEAST_BYTES))
    assert successor._count == 1


def test_many_blocks_are_not_looked_through_for_nothing(arena: Arena) -> None:
    writer, looked = Writer(arena, 1), 0
    taken: list[int] = []

    class Lent(set[int]):
        def __iter__(self) -> Any:
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    writer._lent = Lent()
    for _ in range(2000):
        found = writer.take(4096)
        assert found is not None
        taken.append(found[0])
    assert looked <= placing.FEW * (placing.FEW + 1)
    views = [arena.view(1, block, 4096) for block in taken]
    del views[:7]
    again = [writer.take(4096) for _ in range(8)]
    assert [found is not None and found[0] in taken[:7] for found in again] == [True] * 7 + [False]
    assert looked <= placing.FEW * (placing.FEW + 1) + 2 * 2000


def test_a_block_is_held_for_a_forked_worker_as_long_as_that_lives(arena: Arena) -> None:
    writer = Writer(arena, 0)
    dropped, kept = arena.views(0, written(writer, b"\1" * (1 << 20)) + written(writer, b"\2" * (1 << 20)))
    arena.hold_for("one")
    arena.hold_for("two")
    later = arena.views(0, written(writer, b"\3" * (1 << 20)))
    del dropped, later
    assert free_blocks(writer) == 1
    arena.release("one")
    assert free_blocks(writer) == 1
    arena.release("two")
    assert free_blocks(writer) == 2
    assert kept == b"\2" * (1 << 20)
    del kept
    assert free_blocks(writer) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_what_a_forked_child_has_is_not_overwritten(arena: Arena) -> None:
    writer = Writer(arena, 0)
    view = arena.views(0, written(writer, b"\1" * (1 << 20)))[0]
    to_read, to_write = os.pipe()
    child = os.fork()
    if not child:
        os.read(to_read, 1)
        arena.disown()
        os._exit(view == b"\1" * (1 << 20))
    del view
    for _ in range(3):
        arena.views(0, written(writer, b"\2" * (1 << 20)))
    os.write(to_write, b"x")
    os.close(to_read)
    os.close(to_write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_what_all_read_takes_one_descriptor(arena: Arena) -> None:
    writer, worker = Writer(arena, 0), mapped_again(arena)
    places = b"".join(written(writer, bytes([number]) * LEAST_BYTES) for number in range(50))
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    views = worker.copy_on_write(-1, places, lambda: None)
    assert [view[7] for view in views] == list(range(50))
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2, "and one for the arena itself"


def test_it_is_let_go_of_when_it_is_forgotten_and_nothing_is_left(arena: Arena) -> None:
    said: list[str] = []
    place = written(Writer(arena, 0), b"abcd" * LEAST_BYTES)
    ((_, begin, _),) = triples(place)
    worker = mapped_again(arena)
    views = worker.copy_on_write(-1, place, partial(said.append, "gone"))
    del views
    part = worker.views(0, array("q", (-1, begin + 5, LEAST_BYTES)).tobytes())[0]
    assert not said, "parts of it may still come"
    worker.forget(-1)
    assert not said, "there is a part"
    assert bytes(part[:3]) == b"bcd"
    del part
    assert said == ["gone"]


def test_who_waits_for_a_block_gets_it_when_it_is_let_go_of(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_blocks, "PATIENCE", 1.0)  # a minute is no time
    writer = Writer(arena, 0)
    together = SharedBlocks(writer)
    writer.wait_for = together.wait_for
    assert not together.wait_for(size_class(LEAST_BYTES)), "there is nothing to wait for"
    place = written(writer, bytes(LEAST_BYTES))
    together.add(-1, place)
    assert together.note_sent(-1, 7)
    assert not together.wait_for(size_class(LEAST_BYTES)), "it is wanted"
    together.forget(-1)
    assert not together.note_sent(-1, 8), "it is not sent again"
    assert not together.wait_for(size_class(3 * LEAST_BYTES)), "it is of another size"
    again: list[tuple[int, int] | None] = []
    waiter = threading.Thread(target=lambda: again.append(writer.take(LEAST_BYTES)))
    waiter.start()
    together.note_let_go(-1, 7)
    waiter.join(30)
    assert again == [(0, next(triples(place))[1])]


def test_who_hears_of_it_does_not_wait(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_blocks, "PATIENCE", 1.0)
    writer = Writer(arena, 0)
    together = SharedBlocks(writer)
    together.add(-1, written(writer, bytes(LEAST_BYTES)))
    together.note_sent(-1, 7)
    together.note_let_go(-2, 7)
    together.forget(-1)
    assert not together.wait_for(size_class(LEAST_BYTES))


def test_without_descriptors_there_are_copies(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(Writer(arena, 0), b"\1" * LEAST_BYTES)
    worker, other = mapped_again(arena), mapped_again(arena)
    assert worker.is_mapped()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(mmap, "mmap", refuse)
    said: list[str] = []
    views = worker.copy_on_write(-1, place, partial(said.append, "gone"))
    assert bytes(views[0]) == b"\1" * LEAST_BYTES
    views[0][0] = 2
    assert bytes(worker.copy_on_write(-2, place, lambda: None)[0]) == b"\1" * LEAST_BYTES
    worker.forget(-1)
    assert said == ["gone"], "the copy needs nothing"
    with pytest.raises(SerializationError, match="ulimit -n"):
        other.copy_on_write(-1, place, lambda: None)


def test_parts_of_what_is_not_there_are_not_read(arena: Arena) -> None:
    place = written(Writer(arena, 0), bytes(LEAST_BYTES))
    ((_, begin, _),) = triples(place)
    worker = mapped_again(arena)
    worker.copy_on_write(-1, place, lambda: None)
    worker.forget(-1)
    with pytest.raises(SerializationError, match="does not have"):
        worker.views(0, array("q", (-1, begin, LEAST_BYTES)).tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_what_a_child_of_a_worker_has_is_never_let_go_of(arena: Arena) -> None:
    said: list[str] = []
    worker = mapped_again(arena)
    place = written(Writer(arena, 0), b"\1" * LEAST_BYTES)
    ((_, begin, _),) = triples(place)
    views = worker.copy_on_write(-1, place, partial(said.append, "gone"))
    child = os.fork()
    if not child:
        worker.forget(-1)
        right = bytes(views[0]) == b"\1" * LEAST_BYTES and not said
        views.clear()
        os._exit(not right or bool(said))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    part = worker.views(0, array("q", (-1, begin, LEAST_BYTES)).tobytes())[0]
    assert part[0] == 1, "the worker itself goes on with it"
    worker.forget(-1)
    del views, part
    assert not said


@given(
    pieces=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 100)), max_size=8),
    start=st.integers(0, 900),
    size=st.integers(1, 100),
)
def test_where_memory_is(pieces: list[tuple[int, int]], start: int, size: int) -> None:
    """Pieces of one buffer, which may overlap; the mark of each is a thousand times its number."""
    buffer = memoryview(bytearray(1000))
    memory = Memory((buffer[first : first + length], 1000 * n) for n, (first, length) in enumerate(pieces))
    found = memory.find(address_of(buffer) + start, size)
    right = [
        1000 * number + start - first
        for number, (first, length) in enumerate(pieces)
        if first <= start and start + size <= min(first + length, 1000)
    ]
    if found is not None:
        assert found in right
    elif right:
        assert len(pieces) > 1, "of pieces that overlap, not all are looked at"


# ---------------------------------------------------------------- forks


def test_a_forked_worker_of_a_worker_has_what_all_read(arena: Arena) -> None:
    said: list[str] = []
    worker = mapped_again(arena)
    place = written(Writer(arena, 0), bytes(LEAST_BYTES))
    views = worker.copy_on_write(-1, place, partial(said.append, "gone"))
    worker.hold_for("child")
    worker.forget(-1)
    views.clear()
    assert not said
    worker.release("child")
    assert said == ["gone"]


def test_an_arena_that_is_closed_before_those_who_have_something_of_it(arena: Arena) -> None:
    writer = Writer(arena, 0)
    views = arena.views(0, written(writer, bytes(LEAST_BYTES)) + written(writer, bytes(LEAST_BYTES)))
    arena.hold_for("child")
    views.clear()
    arena.close()
    arena.release("child")
    assert arena.fd < 0
    arena.release("child")


def test_many_parts_that_are_kept_do_not_take_all_descriptors(arena: Arena) -> None:
    place = written(Writer(arena, 0), bytes(range(256)) * 256)
    ((_, begin, _),) = triples(place)
    worker = mapped_again(arena)
    whole = worker.copy_on_write(-1, place, lambda: None)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    parts = [worker.views(0, array("q", (-1, begin + n, 1000)).tobytes())[0] for n in range(200)]
    for number, part in enumerate(parts):
        assert part[0] == number
        part[0] = 99
    assert [part[0] for part in parts] == [99] * 200
    assert bytes(whole[0][:200]) == bytes(range(200))
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + arenas.MOST_MAPS


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_what_a_forked_child_writes_is_its_own(arena: Arena, closed: bool, twice: bool) -> None:
    view = arena.views(0, written(Writer(arena, 0), b"\1" * LEAST_BYTES))[0]
    if closed:
        arena.close()

    def child() -> int:
        right = bytes(view) == b"\1" * LEAST_BYTES
        view[7] = 2
        if not twice:
            return not right
        grandchild = os.fork()  # it has what its parent has changed
        if not grandchild:
            right = view[7] == 2
            view[7] = 3
            os._exit(not right)
        right = right and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
        return not (right and view[7] == 2)

    forked = os.fork()
    if not forked:
        os._exit(child())
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    assert bytes(view) == b"\1" * LEAST_BYTES
