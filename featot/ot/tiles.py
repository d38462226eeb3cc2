"""The search by matrix products, tile by tile: what the torch backend does, on any device and for any cost."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.cost import Cost
from featot.ot.memory import is_out_of_memory, release_memory

# Rows × columns of the tile of reduced costs that is kept at once. On a GPU it keeps the device busy; on a CPU one of
# a million numbers fits the second-level caches of four cores.
_CUDA_TILE = (8192, 65536)
_CPU_TILE, _INDEXED_TILE, _TOPK_TILE = (2048, 512), (1024, 2048), (512, 8192)
_BLOCK, _SMALL_BLOCK = 256, 64  # columns of which a first pass on a CPU keeps only the minimum, for k = 1 and above
_KEPT, _ROWS = 2**24, 2**15  # numbers that such a pass keeps at once, and rows: they too are copied to one buffer
_LEAST_ROWS = 64  # to which a part is halved while memory is out
_FEW, _FEW_PAIRS = 1024, 2**23  # y, or pairs, up to which it costs more than it saves


def smallest_by_products(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    psi: Float[Tensor, " m"],
    k: int,
    cost: Cost,
    center: Float[Tensor, " d"] | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k smallest ``c(x_i, y_j) − ψ_j`` of every row, in no order, and their j."""
    block, (rows, _) = 1, _CUDA_TILE
    search = _smallest_by_tiles if k == 1 else _smallest_k_by_tiles
    if not x.is_cuda and k == 1:
        rows = _INDEXED_TILE[0]
        if len(y) > _FEW and len(x) * len(y) > _FEW_PAIRS:
            search, block = _smallest_by_blocks, _BLOCK
            rows = min(_ROWS, _KEPT * block // len(y))
    elif not x.is_cuda:
        rows = _TOPK_TILE[0]
        if 2 * k * _SMALL_BLOCK <= len(y):  # otherwise the best blocks would be half of all
            search, block = _smallest_k_by_blocks, _SMALL_BLOCK
            rows = min(_ROWS, _KEPT // max(k * block, len(y) // block))
    tiles = _Tiles(y, psi, cost, center, block)
    values = x.new_empty(len(x), k)
    indices = torch.empty(len(x), k, dtype=torch.long, device=x.device)
    start, rows = 0, max(1, rows)
    while start < len(x):
        part = slice(start, start + rows)
        try:
            extended, norms = tiles.extend(x[part])
            value, indices[part] = search(tiles, extended, k)
            values[part] = value if norms is None else (value + norms).mul_(cost.scale)
        except (MemoryError, RuntimeError) as error:
            if rows <= _LEAST_ROWS or not is_out_of_memory(error):
                raise
            rows //= 2
            tiles.forget()
            release_memory()
            continue
        start += rows
    return values, indices


class _Tiles:
    """Reduced costs, tile by tile, each made by one matrix product into memory that is used again.

    The norms and ψ ride in the product as extra coordinates, so that it leaves nothing more to add. Fresh memory
    for each tile would cost more page faults than the products cost time.
    """

    def __init__(self, y: Tensor, psi: Tensor, cost: Cost, center: Tensor | None, block: int) -> None:
        self.cost, self.center = cost, center
        m, d = y.shape
        if center is not None:
            y = y - center
        self.columns = -(-m // block) * block  # filled up with y that are never chosen
        norms = y.square().sum(1)
        self.y = y.new_zeros(self.columns, d + (1 if cost.squared else 2))
        self.y[:m, :d] = -2 * y
        self.y[:m, d] = norms - psi / cost.scale if cost.squared else norms
        self.y[m:, d] = torch.inf
        self.psi = None
        if not cost.squared:
            self.y[:m, d + 1] = 1
            self.psi = torch.cat([psi, psi.new_zeros(self.columns - m)])
        self._buffer = self._rows = y.new_empty(0)

    def forget(self) -> None:
        """Lets go of the memory that would be used again."""
        self._buffer = self._rows = self.y.new_empty(0)

    def extend(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows with the coordinates that y's extra ones meet; for a squared cost their norms, to be added last."""
        (n, d), width = x.shape, self.y.shape[1]
        if self._rows.numel() < n * width:
            self._rows = x.new_empty(n * width)
        rows = self._rows[: n * width].view(n, width)
        if self.center is None:
            rows[:, :d] = x
        else:
            torch.sub(x, self.center, out=rows[:, :d])
        rows[:, d] = 1
        norms = torch.linalg.vecdot(rows[:, :d], rows[:, :d])
        if self.cost.squared:
            return rows, norms[:, None]
        rows[:, d + 1] = norms
        return rows, None

    def fill(self, rows: Tensor, columns: slice) -> Tensor:
        """The tile of these (extended) rows and columns; the next one overwrites it."""
        y = self.y[columns]
        size = len(rows) * len(y)
        if self._buffer.numel() < size:
            self._buffer = rows.new_empty(size)
        tile = self._buffer[:size].view(len(rows), len(y))
        torch.mm(rows, y.t(), out=tile)
        if self.psi is not None:
            self.cost.from_squared_(tile).sub_(self.psi[columns])
        return tile

    def of_blocks(
        self, x: Tensor, blocks: Tensor, size: int, rows: Tensor | None = None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """For pairs of a row (the i-th, or ``rows[i]``) and a block, in order of blocks: which, columns, tile."""
        start = 0
        for block, count in enumerate(torch.bincount(blocks).tolist()):
            columns = slice(block * size, (block + 1) * size)
            for i in range(start, start + count, _CPU_TILE[0]):
                chosen = slice(i, min(i + _CPU_TILE[0], start + count))
                yield chosen, columns, self.fill(x[chosen if rows is None else rows[chosen]], columns)
            start += count


def _block_minima(tiles: _Tiles, x: Tensor, block: int) -> Tensor:
    """The minimum of every block of columns: torch finds a minimum four times faster without its index."""
    rows, columns = _CPU_TILE
    minima = x.new_empty(len(x), tiles.columns // block)
    for i in range(0, len(x), rows):
        for j in range(0, tiles.columns, columns):
            tile = tiles.fill(x[i : i + rows], slice(j, j + columns))
            minima[i : i + rows, j // block : (j + columns) // block] = tile.unflatten(1, (-1, block)).amin(2)
    return minima


def _smallest_by_blocks(tiles: _Tiles, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Two passes: the block of the least minimum, then the index in it."""
    best = _block_minima(tiles, x, _BLOCK).min(dim=1).indices  # three times faster than argmin
    order = best.argsort()
    value, index = x.new_empty(len(x)), torch.empty_like(order)
    for chosen, columns, tile in tiles.of_blocks(x.index_select(0, order), best[order], _BLOCK):
        value[chosen], index[chosen] = tile.min(dim=1)
        index[chosen] += columns.start
    return (
        torch.empty_like(value).scatter_(0, order, value)[:, None],
        torch.empty_like(index).scatter_(0, order, index)[:, None],
    )


def _smallest_k_by_blocks(tiles: _Tiles, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Two passes: a row's k smallest are all in its k blocks of the least minima, so only those are searched."""
    blocks = _block_minima(tiles, x, _SMALL_BLOCK).topk(k, dim=1, largest=False, sorted=False).indices
    flat = blocks.view(-1)
    order = flat.argsort()
    candidates = x.new_empty(len(flat), _SMALL_BLOCK)
    for chosen, _, tile in tiles.of_blocks(x, flat[order], _SMALL_BLOCK, order // k):
        candidates[order[chosen]] = tile
    value, position = candidates.view(len(x), -1).topk(k, dim=1, largest=False, sorted=False)
    return value, blocks.gather(1, position // _SMALL_BLOCK) * _SMALL_BLOCK + position % _SMALL_BLOCK


def _smallest_by_tiles(tiles: _Tiles, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    columns = (_CUDA_TILE if x.is_cuda else _INDEXED_TILE)[1]
    values, indices = tiles.fill(x, slice(0, columns)).min(dim=1)
    for j in range(columns, tiles.columns, columns):
        value, index = tiles.fill(x, slice(j, j + columns)).min(dim=1)
        better = value < values
        values, indices = torch.where(better, value, values), torch.where(better, index + j, indices)
    return values[:, None], indices[:, None]


def _smallest_k_by_tiles(tiles: _Tiles, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    columns = (_CUDA_TILE if x.is_cuda else _TOPK_TILE)[1]
    values, indices = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.long, device=x.device)
    for j in range(0, tiles.columns, columns):
        tile = tiles.fill(x, slice(j, j + columns))
        value, index = tile.topk(min(k, tile.shape[1]), dim=1, largest=False, sorted=False)
        values, indices = torch.cat([values, value], dim=1), torch.cat([indices, index + j], dim=1)
        if j > 0:
            values, chosen = values.topk(min(k, values.shape[1]), dim=1, largest=False, sorted=False)
            indices = indices.gather(1, chosen)
    return values, indices
