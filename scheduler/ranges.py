"""Ranges of numbers: the blocks of a chain that are kept, the places of a memory that are free."""

from bisect import bisect_left, bisect_right


class Ranges:
    """Disjoint ranges of numbers, ends excluded, in order, neighbours joined."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.count = 0

    def lacking(self, first: int, last: int) -> list[tuple[int, int]]:
        """What of `first` to `last` is in none."""
        gaps = []
        for index in range(bisect_right(self.lasts, first), len(self.firsts)):
            if self.firsts[index] >= last:
                break
            if self.firsts[index] > first:
                gaps.append((first, self.firsts[index]))
            first = self.lasts[index]
        return [*gaps, (first, last)] if first < last else gaps

    def add(self, first: int, last: int) -> None:
        """Put a range in, of which nothing was in."""
        self.count += last - first
        firsts, lasts = self.firsts, self.lasts
        index = bisect_left(firsts, first)
        extends = index > 0 and lasts[index - 1] == first
        if index < len(firsts) and firsts[index] == last:
            if extends:
                del firsts[index], lasts[index - 1]
            else:
                firsts[index] = first
        elif extends:
            lasts[index - 1] = last
        else:
            firsts.insert(index, first)
            lasts.insert(index, last)

    def cut(self, most: int) -> tuple[int, int]:
        """Take up to so many off the end of the last range; returns what."""
        last = self.lasts[-1]
        first = max(self.firsts[-1], last - most)
        self.count -= last - first
        if first == self.firsts[-1]:
            self.firsts.pop()
            self.lasts.pop()
        else:
            self.lasts[-1] = first
        return first, last

    def take(self, count: int) -> int | None:
        """Take so many off the beginning of the first range that has them; returns its first."""
        for index, first in enumerate(self.firsts):
            length = self.lasts[index] - first
            if length >= count:
                if length > count:
                    self.firsts[index] = first + count
                else:
                    del self.firsts[index], self.lasts[index]
                self.count -= count
                return first
        return None
