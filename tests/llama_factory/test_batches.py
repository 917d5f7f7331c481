"""Who computes what of the reference: every process equally much, and everything is done."""

import pytest

batches = pytest.importorskip("batches")


@pytest.mark.parametrize("items", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("processes", range(1, 10))
def test_every_process_does_equally_much_and_nothing_is_left(items, processes):
    shares = [batches.share(list(range(items)), process, processes) for process in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert {item for share in shares for item in share} == set(range(items))
