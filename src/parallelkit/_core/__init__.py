"""The task-splitting core: decides which items travel together, and where results belong.

Everything here is pure. No clock, thread, lock, queue, process or random source: the
time comes in as an argument (`now`, in seconds, from any clock that does not go back),
workers are opaque hashable names, and what must be done is returned, not done. So the
core is tested by stepping it by hand, and simulated with thousands of workers in
milliseconds.

One call of a user (a map, a reduce, all the submits of one executor) is one `Scheduler`.
It is told facts: items were pulled, a chunk made progress or ended, a tail was given
back, a worker was lost. Asked what a worker should do, it answers with a chunk, or with
the chunk of a busy worker whose tail should be taken back. Its parts:

    chunks      a Chunk is consecutive items of one source; slices keep the source's type
    splitters   how many items the next chunk takes: Fixed, or Adaptive to measured costs
    outcome     what became of consecutive items
    reorder     completion order -> input order
    fold        the canonical reduction tree
    roster      which workers there are, and how many chunks each has
    scheduler   the state machine that joins them

Why sizes adapt and tails are taken back. A chunk costs about 0.1 ms to carry, whatever
its size, so chunks should be large. But the cost of items is unknown beforehand and may
change in the middle of the input, so large chunks end at different times and leave
workers idle at the end. Every other design settles somewhere between. Here a chunk is
only a claim that can be shortened: when a worker runs dry and nothing is left to hand
out, a part of what the busiest one has not started comes back and is handed out again,
until every tail is a single item. So a wrong guess of a size costs one more message, not
an idle core.

What the core does not know: how far a worker is inside its chunk (the backend does, and
answers when a tail is taken), whether two workers are equally fast, and what an item
costs before the first has ended.
"""
