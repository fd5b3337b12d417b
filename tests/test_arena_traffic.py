"""Buffers are sent, held, cut, changed and dropped in any order, workers die: nothing is overwritten."""

from __future__ import annotations

from array import array
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from parallelkit._wire.arena import Arena, triples
from parallelkit._wire.originals import LEAST_BYTES
from parallelkit._wire.placing import Writer, blocks_of
from parallelkit._wire.shared_blocks import SharedBlocks
from programs.areas import WORKERS, address_of, free_blocks, mapped_again, written

pytestmark = pytest.mark.timeout(60)


class Traffic(RuleBasedStateMachine):
    """A parent and its workers that send buffers, hold views of them, cut, change and drop those.

    Some buffers all workers read, as a whole and in parts. Workers die. Whatever happens, each view has the
    bytes that were sent, until it is changed through itself.
    """

    views = Bundle("views")
    shared = Bundle("shared")
    sizes = st.sampled_from([LEAST_BYTES, LEAST_BYTES + 1, 3 * LEAST_BYTES, 1 << 20])

    def __init__(self) -> None:
        super().__init__()
        self.parent = Arena(WORKERS)
        self.sends = Writer(self.parent, 0)
        self.workers = [mapped_again(self.parent) for _ in range(WORKERS)]
        self.answers = [Writer(arena, index + 1) for index, arena in enumerate(self.workers)]
        self.readers = [index + 1 for index in range(WORKERS)]
        self.sent = 0
        self.held: list[Held] = []
        self.together = SharedBlocks(self.sends)
        self.on_their_way: list[tuple[int, int]] = []  # key and reader: what workers say they have let go of

    def content(self, size: int) -> bytes:
        self.sent += 1
        return self.sent.to_bytes(4, "little") * (size // 4) + b"\0" * (size % 4)

    def keep(self, view: memoryview, content: bytes, worker: int | None) -> Held:
        self.held.append(held := Held(view, content, worker))
        return held

    @rule(target=views, size=sizes, worker=st.integers(0, WORKERS - 1))
    def send(self, size: int, worker: int) -> Held:
        content = self.content(size)
        place = written(self.sends, content)
        self.sends.lend(blocks_of(place), self.readers[worker])
        return self.keep(self.workers[worker].views(0, place)[0], content, worker)

    @rule(target=views, size=sizes, worker=st.integers(0, WORKERS - 1))
    def answer(self, size: int, worker: int) -> Held:
        content = self.content(size)
        place = written(self.answers[worker], content)
        return self.keep(self.parent.views(worker + 1, place)[0], content, None)

    @rule(target=views, held=views, worker=st.integers(0, WORKERS - 1))
    def send_again(self, held: Held, worker: int) -> Any:
        if held.view is None or held.worker is not None or held.view.nbytes < LEAST_BYTES:
            return multiple()
        content = bytes(held.view)
        place = written(self.sends, content)
        self.sends.lend(blocks_of(place), self.readers[worker])
        return self.keep(self.workers[worker].views(0, place)[0], content, worker)

    @rule(target=views, held=views, begin=st.integers(0, 1000))
    def cut(self, held: Held, begin: int) -> Any:
        if held.view is None:
            return multiple()
        return self.keep(held.view[begin : begin + 5000], held.content[begin : begin + 5000], held.worker)

    @rule(held=views, byte=st.integers(0, 255))
    def change(self, held: Held, byte: int) -> None:
        """Views that are cut from one another share what is changed; those of another buffer do not."""
        if held.view is not None:
            before = {id(other): other.content for other in self.held}
            address = address_of(held.view)
            held.view[0] = byte
            for other in self.held:
                if other.view is not None and other.worker == held.worker:
                    offset = address - address_of(other.view)
                    if 0 <= offset < len(before[id(other)]):
                        content = bytearray(other.content)
                        content[offset] = byte
                        other.content = bytes(content)

    @rule(held=consumes(views))
    def drop(self, held: Held) -> None:
        held.view = None
        self.held = [other for other in self.held if other is not held]

    @rule(target=shared, size=sizes)
    def place_for_all(self, size: int) -> Common:
        content = self.content(size)
        place = written(self.sends, content)
        self.sent += 1
        self.together.add(-self.sent, place)
        return Common(-self.sent, place, content)

    @rule(target=views, common=shared, worker=st.integers(0, WORKERS - 1))
    def send_what_all_read(self, common: Common, worker: int) -> Any:
        reader = self.readers[worker]
        if not common.wanted or reader in common.readers:
            return multiple()
        assert self.together.note_sent(common.key, reader)
        common.readers.add(reader)
        let_go = partial(self.on_their_way.append, (common.key, reader))
        view = self.workers[worker].copy_on_write(common.key, common.place, let_go)[0]
        return self.keep(view, common.content, worker)

    @rule(
        target=views,
        common=shared,
        worker=st.integers(0, WORKERS - 1),
        cuts=st.lists(st.integers(0, LEAST_BYTES), min_size=2, max_size=6, unique=True),
    )
    def send_parts(self, common: Common, worker: int, cuts: list[int]) -> Any:
        if not common.wanted or self.readers[worker] not in common.readers:
            return multiple()
        _, begin, _ = next(triples(common.place))
        places = array("q")
        cuts.sort()
        spans = list(pairwise(cuts))
        for first, end in spans:
            places.extend((common.key, begin + first, end - first))
        views = self.workers[worker].views(0, places.tobytes())
        contents = [common.content[first:end] for first, end in spans]
        return multiple(*map(self.keep, views, contents, [worker] * len(views)))

    @rule(common=consumes(shared))
    def forget_for_all(self, common: Common) -> None:
        common.wanted = False
        for worker, reader in enumerate(self.readers):
            if reader in common.readers:
                self.workers[worker].forget(common.key)
        self.together.forget(common.key)

    @rule()
    def hear(self) -> None:
        while self.on_their_way:
            self.together.note_let_go(*self.on_their_way.pop(0))

    @rule(size=sizes)
    def take_back(self, size: int) -> None:
        """A chunk could not be sent."""
        self.sends.give_back(blocks_of(written(self.sends, self.content(size))))

    @rule(size=sizes, worker=st.integers(0, WORKERS - 1), answered=st.booleans())
    def die(self, size: int, worker: int, answered: bool) -> None:
        """A worker dies, with an answer that nobody has read."""
        if answered:
            written(self.answers[worker], self.content(size))
        for held in self.held:
            if held.worker == worker:
                held.view = None
        dead = self.workers[worker]
        assert not dead._views, "what it held died with it"
        dead.disown()
        dead._shared.clear()
        self.together.forget_reader(self.readers[worker])
        self.parent.forget_reader(self.readers[worker])
        self.parent.forget_writer(worker + 1)
        self.readers[worker] += WORKERS
        self.workers[worker] = mapped_again(self.parent)
        self.answers[worker] = Writer(self.workers[worker], worker + 1)

    @rule(who=st.integers(0, WORKERS))
    def trim(self, who: int) -> None:
        [self.sends, *self.answers][who].trim()

    @rule()
    def check(self) -> None:
        for held in self.held:
            assert held.view is None or held.view == held.content

    def teardown(self) -> None:
        self.check()
        for held in self.held:
            held.view = None
        for key in list(self.together._shared):
            for worker in self.workers:
                worker.forget(key)
            self.together.forget(key)
        self.hear()
        assert not self.together._shared
        self.check_that_all_is_free()
        for arena in (*self.workers, self.parent):
            arena.close()

    def check_that_all_is_free(self) -> None:
        for writer in (self.sends, *self.answers):
            assert free_blocks(writer) == writer._count


class Held:
    """A view, or none any more, and what must be in it."""

    def __init__(self, view: memoryview, content: bytes, worker: int | None) -> None:
        self.view: memoryview | None = view
        self.content = content
        self.worker = worker


class Common:
    """What all workers read."""

    def __init__(self, key: int, place: bytes, content: bytes) -> None:
        self.key = key
        self.place = place
        self.content = content
        self.readers: set[int] = set()
        self.wanted = True


TestTraffic = Traffic.TestCase


TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
