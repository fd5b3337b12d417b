"""Start two workers, map two items, end: once cold, imports included, then warm. Prints the seconds as JSON.

usage: start.py ours|pool|futures fork|forkserver|spawn builtin|own [times warm]
"""

import json
import sys
from statistics import median
from time import perf_counter


def double(number):
    return 2 * number


def ours(method, function):
    import parallelkit

    with parallelkit.Executor("process", 2, mp_context=method) as executor:
        return list(executor.map(function, [1, 2]))


def pool(method, function):
    import multiprocessing

    workers = multiprocessing.get_context(method).Pool(2)
    values = workers.map(function, [1, 2])
    workers.close()
    workers.join()
    return values


def futures(method, function):
    import concurrent.futures
    import multiprocessing

    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(function, [1, 2]))


def seconds(side, method, function):
    began = perf_counter()
    values = side(method, function)
    took = perf_counter() - began
    assert values == [function(1), function(2)], values
    return took


if __name__ == "__main__":
    _, side, method, kind, *times = sys.argv
    arguments = globals()[side], method, abs if kind == "builtin" else double
    cold = seconds(*arguments)
    warm = [seconds(*arguments) for _ in range(int(times[0]) if times else 5)]
    print(json.dumps([cold, median(warm)]))
