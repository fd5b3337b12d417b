"""A parent that reads large results for ever: python streaming_large.py METHOD FILE.

The workers say in FILE in which process they make one.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from typing import Any

import numpy as np

from parallelkit import Executor
from parallelkit.testing import Notes


def echo(array: Any) -> Any:
    notes.add(os.getpid())
    return array + 1


method, file = sys.argv[1:]
notes = Notes(os.path.dirname(file), os.path.basename(file))

if __name__ == "__main__":
    with Executor("process", 2, method) as executor:
        for _ in executor.map(echo, (np.zeros(4 << 20, np.uint8) for _ in count())):
            pass
