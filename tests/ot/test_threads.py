"""Work on torch's own threads, or on others: each part once, and what fails is heard of."""

from __future__ import annotations

import threading

import pytest
import torch

from featot.ot import threads
from featot.ot.threads import in_threads


@pytest.fixture(params=["torch's threads", "a pool"])
def three_threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    if request.param == "a pool":
        monkeypatch.setattr(threads, "_parallel", lambda: threads._in_pool)
    elif threads._parallel() is threads._in_pool:
        pytest.skip("this torch has no libgomp")


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_part_is_done_once(three_threads, count):
    done = []
    in_threads(done.append, range(count), 8)
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize(("most", "expected"), [(0, 1), (1, 1), (2, 2), (9, 3)])
def test_as_many_threads_as_are_worth_it(three_threads, most, expected):
    """They meet at a barrier, which opens only when all of them work at once."""
    barrier = threading.Barrier(expected)
    seen = set()

    def work(part):
        barrier.wait(timeout=60)
        seen.add(threading.get_ident())

    in_threads(work, range(expected), most)
    assert len(seen) == expected


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_is_raised(three_threads, error):
    def work(part):
        if part == 7:
            raise error("part 7")

    with pytest.raises(error, match="part 7"):
        in_threads(work, range(20), 8)


def test_torch_computes_within_it(three_threads):
    made = torch.zeros(40, 64)

    def work(row):
        made[row] = torch.arange(64).sort(descending=True).values

    in_threads(work, range(40), 8)
    assert torch.equal(made, torch.arange(63, -1, -1).float().expand(40, -1))
