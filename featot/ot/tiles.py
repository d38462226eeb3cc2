"""The search by matrix products, tile by tile: what the torch backend does, on any device and for any cost."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from featot.ot.cost import Cost

# Rows × columns of the tile of reduced costs that is kept at once. On a GPU it keeps the device busy; on a CPU one of
# a million numbers fits the second-level caches of four cores.
_CUDA_TILE = (8192, 65536)
_CPU_TILE, _INDEXED_TILE, _TOPK_TILE = (2048, 512), (1024, 2048), (512, 8192)
_BLOCK, _SMALL_BLOCK = 256, 64  # columns of which a first pass on a CPU keeps only the minimum, for k = 1 and above
_KEPT = 2**24  # numbers that such a pass keeps at once
_FEW, _FEW_PAIRS = 1024, 2**23  # y, or pairs, up to which it costs more than it saves


def smallest_by_products(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], psi: Float[Tensor, " m"], k: int, cost: Cost
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k smallest ``c(x_i, y_j) − ψ_j`` of every row, in no order, and their j."""
    if k == 1:
        by_tiles = x.is_cuda or len(y) <= _FEW or len(x) * len(y) <= _FEW_PAIRS
        return (_smallest_by_tiles if by_tiles else _smallest_by_blocks)(x, y, psi, cost)
    # Where the best blocks would be half of all, nothing is gained by finding them.
    by_tiles = x.is_cuda or 2 * k * _SMALL_BLOCK > len(y)
    return (_smallest_k_by_tiles if by_tiles else _smallest_k_by_blocks)(x, y, psi, k, cost)


class _Tiles:
    """Reduced costs, tile by tile, each made by one matrix product into memory that is used again.

    The norms and ψ ride in the product as extra coordinates, so that it leaves nothing more to add. Fresh memory
    for each tile would cost more page faults than the products cost time.
    """

    def __init__(self, x: Tensor, y: Tensor, psi: Tensor, cost: Cost, multiple: int = 1) -> None:
        self.cost, self.scale = cost, cost.scale if cost.squared else 1.0
        (n, d), m = x.shape, len(y)
        self.columns = -(-m // multiple) * multiple  # filled up with y that are never chosen
        norms = y.square().sum(1)
        if cost.squared:
            self.x = torch.cat([x, x.new_ones(n, 1)], dim=1)
            parts = [-2 * y, (norms - psi / self.scale)[:, None]]
            self.psi = None
        else:
            self.x = torch.cat([x, x.new_ones(n, 1), x.square().sum(1, keepdim=True)], dim=1)
            parts = [-2 * y, norms[:, None], y.new_ones(m, 1)]
            self.psi = torch.cat([psi, psi.new_zeros(self.columns - m)])
        self.y = y.new_zeros(self.columns, self.x.shape[1])
        torch.cat(parts, dim=1, out=self.y[:m])
        self.y[m:, d] = torch.inf
        self.x_norms = torch.linalg.vecdot(x, x) if cost.squared else None

    def fill(self, rows: Tensor, columns: slice, buffer: Tensor) -> Tensor:
        """The tile of ``rows`` (of ``self.x``) and ``columns``, in the memory of ``buffer``."""
        y = self.y[columns]
        tile = buffer[: len(rows) * len(y)].view(len(rows), len(y))
        torch.mm(rows, y.t(), out=tile)
        if self.psi is not None:
            self.cost.from_squared_(tile).sub_(self.psi[columns])
        return tile

    def finish(self, values: Tensor) -> Tensor:
        """From what the tiles hold to ``c − ψ``: a row's own norm is added last."""
        return values if self.x_norms is None else (values + self.x_norms[:, None]).mul_(self.scale)


def _block_minima(tiles: _Tiles, x: Tensor, block: int) -> Tensor:
    """The minimum of every block of columns: torch finds a minimum four times faster without its index."""
    rows, columns = _CPU_TILE
    buffer = x.new_empty(rows * columns)
    minima = x.new_empty(len(x), tiles.columns // block)
    for i in range(0, len(x), rows):
        for j in range(0, tiles.columns, columns):
            tile = tiles.fill(x[i : i + rows], slice(j, j + columns), buffer)
            minima[i : i + rows, j // block : (j + columns) // block] = tile.unflatten(1, (-1, block)).amin(2)
    return minima


def _smallest_by_blocks(x: Tensor, y: Tensor, psi: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
    """Two passes: the block of the least minimum, then the index in it."""
    tiles = _Tiles(x, y, psi, cost, _BLOCK)
    values, indices = [], []
    for rows in tiles.x.split(max(1, _KEPT * _BLOCK // tiles.columns)):
        best = _block_minima(tiles, rows, _BLOCK).argmin(1)
        order = best.argsort()
        value, index = rows.new_empty(len(rows)), torch.empty_like(order)
        for chosen, columns, tile in _tiles_of_blocks(tiles, rows[order], best[order], _BLOCK):
            value[chosen], index[chosen] = tile.min(dim=1)
            index[chosen] += columns.start
        values.append(torch.empty_like(value).scatter_(0, order, value))
        indices.append(torch.empty_like(index).scatter_(0, order, index))
    return tiles.finish(torch.cat(values)[:, None]), torch.cat(indices)[:, None]


def _smallest_k_by_blocks(x: Tensor, y: Tensor, psi: Tensor, k: int, cost: Cost) -> tuple[Tensor, Tensor]:
    """Two passes: a row's k smallest are all in its k blocks of the least minima, so only those are searched."""
    tiles = _Tiles(x, y, psi, cost, _SMALL_BLOCK)
    values, indices = [], []
    for rows in tiles.x.split(max(1, _KEPT // max(k * _SMALL_BLOCK, tiles.columns // _SMALL_BLOCK))):
        blocks = _block_minima(tiles, rows, _SMALL_BLOCK).topk(k, dim=1, largest=False, sorted=False).indices
        flat = blocks.view(-1)
        order = flat.argsort()
        candidates = rows.new_empty(len(flat), _SMALL_BLOCK)
        for chosen, _, tile in _tiles_of_blocks(tiles, rows, flat[order], _SMALL_BLOCK, order // k):
            candidates[order[chosen]] = tile
        value, position = candidates.view(len(rows), -1).topk(k, dim=1, largest=False, sorted=False)
        values.append(value)
        indices.append(blocks.gather(1, position // _SMALL_BLOCK) * _SMALL_BLOCK + position % _SMALL_BLOCK)
    return tiles.finish(torch.cat(values)), torch.cat(indices)


def _tiles_of_blocks(
    tiles: _Tiles, x: Tensor, blocks: Tensor, size: int, rows: Tensor | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """For the pairs of a row (the i-th, or ``rows[i]``) and its block, in order of blocks: which, columns, tile."""
    buffer = x.new_empty(_CPU_TILE[0] * size)
    start = 0
    for block, count in enumerate(torch.bincount(blocks).tolist()):
        columns = slice(block * size, (block + 1) * size)
        for i in range(start, start + count, _CPU_TILE[0]):
            chosen = slice(i, min(i + _CPU_TILE[0], start + count))
            yield chosen, columns, tiles.fill(x[chosen if rows is None else rows[chosen]], columns, buffer)
        start += count


def _smallest_by_tiles(x: Tensor, y: Tensor, psi: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
    tiles = _Tiles(x, y, psi, cost)
    values = x.new_full((len(x),), torch.inf)
    indices = torch.zeros(len(x), dtype=torch.long, device=x.device)
    size, columns = _CUDA_TILE if x.is_cuda else _INDEXED_TILE
    buffer = x.new_empty(min(size, len(x)) * min(columns, len(y)))
    for i in range(0, len(x), size):
        rows = slice(i, i + size)
        for j in range(0, len(y), columns):
            value, index = tiles.fill(tiles.x[rows], slice(j, j + columns), buffer).min(dim=1)
            better = value < values[rows]
            values[rows] = torch.where(better, value, values[rows])
            indices[rows] = torch.where(better, index + j, indices[rows])
    return tiles.finish(values[:, None]), indices[:, None]


def _smallest_k_by_tiles(x: Tensor, y: Tensor, psi: Tensor, k: int, cost: Cost) -> tuple[Tensor, Tensor]:
    tiles = _Tiles(x, y, psi, cost)
    rows, columns = _CUDA_TILE if x.is_cuda else _TOPK_TILE
    values = x.new_empty(len(x), k)
    indices = torch.empty(len(x), k, dtype=torch.long, device=x.device)
    buffer = x.new_empty(min(rows, len(x)) * min(columns, len(y)))
    for i in range(0, len(x), rows):
        kept: list[tuple[Tensor, Tensor]] = []
        for j in range(0, len(y), columns):
            tile = tiles.fill(tiles.x[i : i + rows], slice(j, j + columns), buffer)
            value, index = tile.topk(min(k, tile.shape[1]), dim=1, largest=False, sorted=False)
            kept.append((value, index + j))
            if len(kept) > 1:
                kept = [_merge(kept, k)]
        values[i : i + rows], indices[i : i + rows] = kept[0]
    return tiles.finish(values), indices


def _merge(kept: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    values, indices = (torch.cat(parts, dim=1) for parts in zip(*kept, strict=True))
    values, chosen = values.topk(min(k, values.shape[1]), dim=1, largest=False, sorted=False)
    return values, indices.gather(1, chosen)
