"""What may be committed of a partition: everything before the first record that is not done."""

from __future__ import annotations


class Progress:
    """How far one partition is done.

    Args:
        position: the first offset that is read.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        """Where reading goes on."""
        self._open: dict[int, bool] = {}  # Offsets in order, and whether each is done.

    def take(self, offset: int) -> None:
        """Note a record that was read."""
        self._open[offset] = False
        self.position = offset + 1

    def done(self, offset: int) -> None:
        """Note that the record at *offset* needs not be read again."""
        if offset in self._open:
            self._open[offset] = True

    def safe(self) -> int:
        """Return the offset to commit: that of the first record that is not done.

        Records that are missing, as in a compacted topic, count as done.
        """
        while self._open:
            first = next(iter(self._open))
            if not self._open[first]:
                return first
            del self._open[first]
        return self.position
