"""How fast a run goes, how long it will take, and times for a person to read."""

from __future__ import annotations

from collections import deque

SAMPLES = 30
"""Last changes of the step from which the time left is told: a pause long ago (an evaluation) is forgotten."""


class Rate:
    """Steps a second over the last SAMPLES changes of the step."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def add(self, now: float, step: int) -> None:
        if self.seen and step < self.seen[-1][1]:
            self.seen.clear()  # a run that went on from a checkpoint
        if not self.seen or step > self.seen[-1][1]:
            self.seen.append((now, step))

    def left(self, now: float, total: int) -> float | None:
        """Seconds until `total`; None before two steps were seen."""
        if len(self.seen) < 2:
            return None
        (first, low), (last, high) = self.seen[0], self.seen[-1]
        return max(0.0, (total - high) * (last - first) / (high - low) - (now - last))


def clock_time(seconds: float) -> str:
    """`m:ss`, `h:mm:ss`, and from a day on `2 d 3:04:05`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    short = f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{days} d {short}" if days else short
