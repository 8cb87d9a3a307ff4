"""What a CPU process keeps resident for its blocks: glibc's allocator in outline.

Small blocks lie one after the other in the heap; the gaps that freed ones leave are filled by the smallest
one that will do, and stay resident otherwise. Large blocks are mapped on their own and go back to the system
when freed; each such block raises the size from which blocks count as large, up to 32 MB. The heap's end goes
back once more than twice that size is free there.

Source: glibc's malloc/malloc.c, "M_MMAP_THRESHOLD" (dynamic) and "M_TRIM_THRESHOLD"; mallopt(3).
"""

from __future__ import annotations

from bisect import bisect_left, insort

FIRST_LARGE = 128 * 1024
LARGEST_KEPT = 32 * 2**20
_UNIT, _HEADER = 16, 80
"""Blocks are multiples of 16 bytes; PyTorch's alignment and the allocator's header take 80 more."""


class Heap:
    """Follow allocations and count resident bytes.

    Example:
        >>> heap = Heap()
        >>> first, second = heap.allocate(1000), heap.allocate(1000)
        >>> heap.free(first)
        >>> heap.resident == heap.peak
        True
    """

    def __init__(self) -> None:
        self.peak = 0
        self._large, self._trim = FIRST_LARGE, 2 * FIRST_LARGE
        self._end, self._mapped = 0, 0
        self._sizes: dict[int, int] = {}
        self._gaps: list[tuple[int, int]] = []
        self._gap_at: dict[int, int] = {}
        self._gap_before: dict[int, int] = {}
        self._touched = 0
        self._n_mapped = 0

    @property
    def resident(self) -> int:
        """Bytes that are resident now."""
        return self._touched + self._mapped

    def allocate(self, n_bytes: int) -> int:
        """Place a block; return what `free` needs."""
        size = -(-(n_bytes + _HEADER) // _UNIT) * _UNIT
        if size >= self._large:
            self._n_mapped += 1
            place = -self._n_mapped
            self._mapped += size
        else:
            place = self._place(size)
        self._sizes[place] = size
        self.peak = max(self.peak, self.resident)
        return place

    def free(self, place: int) -> None:
        """Give a block back."""
        size = self._sizes.pop(place)
        if place < 0:
            self._mapped -= size
            if self._large < size <= LARGEST_KEPT:
                self._large, self._trim = size, 2 * size
            return
        start, end = place, place + size
        if end in self._gap_at:
            end += self._take_gap(end)
        if start in self._gap_before:
            before = self._gap_before[start]
            self._take_gap(before)
            start = before
        if end == self._end:
            self._end = start
            if self._touched - start > self._trim:
                self._touched = start
        else:
            self._add_gap(start, end - start)

    def _place(self, size: int) -> int:
        index = bisect_left(self._gaps, (size, 0))
        if index < len(self._gaps):
            gap, start = self._gaps[index]
            self._take_gap(start)
            if gap > size:
                self._add_gap(start + size, gap - size)
            return start
        start = self._end
        self._end += size
        self._touched = max(self._touched, self._end)
        return start

    def _add_gap(self, start: int, size: int) -> None:
        insort(self._gaps, (size, start))
        self._gap_at[start] = size
        self._gap_before[start + size] = start

    def _take_gap(self, start: int) -> int:
        size = self._gap_at.pop(start)
        del self._gap_before[start + size]
        del self._gaps[bisect_left(self._gaps, (size, start))]
        return size
