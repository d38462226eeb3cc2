"""What this process may use of the machine: cores and memory, as containers limit them. No torch in it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_UNLIMITED = 2**60  # bytes: from there on, a limit of version 1 means none
# The variables that decide how torch's threads work and wait.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "OMP_PROC_BIND",
)


def describe_machine() -> dict[str, Any]:
    """Cores, limits, load and memory, ready for JSON; None for what this system does not tell.

    "cores" is how many this process may use at once, of the "cores_present": the fewest that its affinity and its
    control group allow.
    """
    present = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    quota = cpu_quota()
    load = None
    with suppress(OSError, AttributeError):
        load = round(os.getloadavg()[0], 2)
    total, free = _memory()
    limit = memory_limit()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores_present": present,
        "cores": max(1, min(allowed, present if quota is None else round(quota))),
        "cgroup_cores": quota,
        "load": load,
        "memory": total,
        "memory_free": free,
        "cgroup_memory": limit,
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def usable_memory() -> float:
    """The bytes of memory that this process may use at most; infinity where the system does not tell."""
    sizes = [size for size in (_memory()[0], memory_limit()) if size is not None]
    return min(sizes, default=math.inf)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many cores the control group grants, None for as many as there are. ``root``: of the file system."""
    quotas = []
    for folder in _groups(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()  # version 2: "max 100000" for no limit
            quotas.append(int(quota) / int(period))
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            quotas.append(int(quota) / int(period))  # version 1: -1 for no limit
    return min((quota for quota in quotas if quota > 0), default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """The bytes that the control group grants, None for as many as there are. ``root``: of the file system."""
    limits = []
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2, where "max" is no limit, and of 1
            with suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text()))
    return min((limit for limit in limits if limit < _UNLIMITED), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' control groups with that controller, and of those above them."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controllers if controllers else mount
        base = base if base.is_dir() else mount / controller
        path = base / group.strip("/")
        # In a container the path may be that of the host: then only the mount itself is there.
        yield from (path, *(folder for folder in path.parents if folder == base or base in folder.parents))


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> tuple[int | None, int | None]:
    """All of the memory and what is free of it, in bytes."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemTotal"], sizes["MemAvailable"]
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    return None, None
