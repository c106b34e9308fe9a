"""What a template may cost, whatever is written in it and whatever the data: size, output, rounds and steps."""

from __future__ import annotations

from typing import Final

from operators.templates.errors import TemplateFailed

SOURCE_MAX_CHARS: Final = 16_384
# Of one `{{ .. }}` or `{% .. %}`, and of white space in a row. The lexer takes quadratic time in these: without them a
# template of that size can take half a minute, with them half a second.
TAG_MAX_CHARS: Final = 2_000
BLANKS_MAX: Final = 200
DEPTH_MAX: Final = 50  # Of an expression, so that no template ends in Python's recursion limit.

OUTPUT_MAX_BYTES: Final = 65_536
LOOP_MAX: Final = 10_000  # Rounds of a loop, times those of the loops around it; also numbers in a range.
# What one rendering may do: a node, a look-up, an element or 16 characters that a filter touches are a step each. A
# table of 1000 products takes some 15 000; all of them take less than a second.
STEPS_MAX: Final = 200_000

_CHARS_PER_STEP_BITS: Final = 4


def steps_of(chars: int) -> int:
    """Return how many steps it takes to touch so many characters."""
    return chars >> _CHARS_PER_STEP_BITS


class Budget:
    """What one rendering may still do, and its stream time (ms)."""

    __slots__ = ("now_ms", "steps_left")

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.steps_left = STEPS_MAX

    def spend(self, steps: int) -> None:
        """Raise `TemplateFailed` unless *steps* more are allowed."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise TemplateFailed(f"it takes more than {STEPS_MAX} steps")

    def spend_on(self, value: object) -> None:
        """As `spend`, for work that touches all of *value*."""
        if isinstance(value, str):
            self.spend(1 + steps_of(len(value)))
        elif isinstance(value, (list, tuple, dict, range)):
            steps, todo = 0, [value]
            while todo and steps <= self.steps_left:
                one: object = todo.pop()
                steps += 1
                if isinstance(one, str):
                    steps += steps_of(len(one))
                elif isinstance(one, range):
                    steps += len(one)
                elif isinstance(one, (list, tuple)):
                    todo.extend(one)
                elif isinstance(one, dict):
                    todo.extend(one)
                    todo.extend(one.values())
            self.spend(steps)
        else:
            self.spend(1)
