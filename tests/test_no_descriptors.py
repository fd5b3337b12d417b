"""No descriptors left: a clear error, and no harm to what comes after."""

from __future__ import annotations

import pytest

from programs.watching import HERE, METHODS, run


@pytest.mark.timeout(60)
@pytest.mark.parametrize("method", METHODS)
def test_without_descriptors_there_is_an_error_and_with_them_all_is_well(method: str) -> None:
    pytest.importorskip("resource")
    out, err = run(["-W", "ignore::DeprecationWarning", HERE / "without_descriptors.py", method])
    assert (out, err) == ("", "")
