"""The smallest of every row, by the compiled kernel."""

from __future__ import annotations

import pytest
import torch

from featot.ot import ascend, search
from featot.ot.search import llvm_is_usable

pytestmark = pytest.mark.skipif(not llvm_is_usable(), reason="no llvmlite, or a CPU without AVX2")


@pytest.mark.parametrize("n", [1, 3, 4, 130, 517])
@pytest.mark.parametrize("groups", [1, 2, 13])
def test_it_is_the_least_of_the_differences(n, groups, monkeypatch):
    from featot.ot import rows
    from featot.ot.compiled import LANES

    monkeypatch.setattr(rows, "_WORK", 1000)
    generator = torch.Generator().manual_seed(n)
    costs, psi = (torch.rand(*shape, groups * LANES, generator=generator) for shape in ((n,), ()))
    assert torch.equal(rows.smallest_in_rows(costs, psi), (costs - psi).argmin(dim=1))


def test_the_first_of_equals_and_of_what_is_no_number():
    from featot.ot.compiled import LANES
    from featot.ot.rows import smallest_in_rows

    m = 3 * LANES
    costs = torch.ones(5, m)
    costs[1, 3:] = 0
    costs[2, [LANES + 1, 2 * LANES]] = -1
    costs[3] = torch.nan
    costs[4, :-1] = torch.inf
    assert smallest_in_rows(costs, torch.zeros(m)).tolist() == [0, 3, LANES + 1, 0, m - 1]


def test_ascent_is_the_same_without_it(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(300, 7, generator=generator), torch.rand(201, 7, generator=generator)
    args = (x, y, torch.zeros(201), torch.full((201,), 1 / 201))
    found = ascend(*args, steps=6, rate=0.1)
    monkeypatch.setattr(search, "llvm_is_usable", lambda: False)
    for one, other in zip(found, ascend(*args, steps=6, rate=0.1), strict=True):
        assert torch.equal(one, other)
