"""Stream a generator through two warm workers. Says when it is idle and when it is done, and waits each time.

usage: memory.py [items]
"""

import sys

from parallelkit import pimap


def square(number):
    return number * number


def stop_here(word):
    print(word, flush=True)
    sys.stdin.readline()


def stream(items):
    for place, value in enumerate(pimap(square, (number for number in range(items)), max_workers=2)):
        assert value == place * place
    assert place == items - 1


stream(1000)
stop_here("idle")
stream(int(sys.argv[1]))
stop_here("done")
