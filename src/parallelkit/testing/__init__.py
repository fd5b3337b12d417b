"""For tests, ours and yours: a backend that is moved by hand, and the contract that every backend keeps.

`FakeBackend` runs nothing by itself. A test looks at what is with which worker, and settles, fails, rejects,
gives back or loses it, so that every situation can be had without threads and without waiting:

    >>> from parallelkit import Executor
    >>> backend = FakeBackend(workers=2)
    >>> executor = Executor(backend)
    >>> future = executor.submit(pow, 2, 10)
    >>> [chunk] = backend.chunks()
    >>> future.running(), future.done()
    (True, False)
    >>> backend.finish(chunk)
    >>> future.result()
    1024

`BackendContract` is a class of tests for pytest. Who writes a backend makes a subclass of it in his tests:

    class TestMyBackend(BackendContract):
        def new_executor(self, **options):
            return Executor("mine", **options)

With `pytest.register_assert_rewrite("parallelkit.testing")` in conftest.py its failures tell more.
"""

from .contract import BackendContract
from .fake import FakeBackend, FakeChunk
from .gates import Gate, Notes

__all__ = ["BackendContract", "FakeBackend", "FakeChunk", "Gate", "Notes"]
