"""Whose processes the kernel's count of kills for want of memory counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.supervise.child import oom_kills


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/job/7\n", {"sys/fs/cgroup/job/7/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 9\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/memory.events": "oom_kill 4\n"}, 4),
        ("4:memory:/a\n1:name=systemd:/b\n0::/\n", {"sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill 5\n"}, 5),
        ("0::/job\n", {}, 0),
        (None, {}, 0),
    ],
)
def test_only_this_control_groups_are_counted(
    tmp_path: Path, groups: str | None, files: dict[str, str], count: int
) -> None:
    # The machine's own count is every other job's too.
    everything = {**files, "proc/vmstat": "oom_kill 77\n"}
    if groups is not None:
        everything["proc/self/cgroup"] = groups
    for name, text in everything.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert oom_kills(tmp_path) == count
