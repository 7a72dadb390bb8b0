"""Memory: the kernel's OOM killer takes the worker that serves."""

from __future__ import annotations

import os
import random
import time

from chaos.faults.base import Landing, Need, Site
from chaos.faults.environment import Watch
from chaos.rig.cgroup import MemoryCgroup
from chaos.rig.problem import RigError

__all__ = ["Oom"]

LOOK_S = 0.01
DROP_EACH_S = 0.1
OOM_REPORT = (r"oom-kill", r"Call Trace", r"Memory cgroup (?:stats|out of memory)")


class Oom:
    """The worker is moved into a memory cgroup that allows it not one page more.

    Its next page of page cache, stack or heap is charged there, and the kernel kills it: it is the
    only process in the group. To make sure that there is a next page, the page cache of its lower
    files is dropped now and then.
    """

    kind = "oom"
    about = "the kernel's OOM killer takes the worker that serves; a standby goes on"
    needs = frozenset({Need.ROOT, Need.SUPERVISED})

    def inflict(self, site: Site, chance: random.Random) -> Landing:
        watch = Watch(site)
        worker = watch.worker()
        with MemoryCgroup(f"obdsup-chaos-oom-{os.getpid()}") as group:
            group.limit(0)
            time.sleep(chance.uniform(0, 0.02))
            watch.strike_now()
            group.take(worker)
            deadline = time.monotonic() + site.patience_s
            dropped_s = 0.0
            while worker.is_alive():
                if time.monotonic() > deadline:
                    raise RigError(f"oom: worker {worker.pid} uses no new page, it was not killed")
                if time.monotonic() > dropped_s + DROP_EACH_S:
                    _drop_page_cache(site)
                    dropped_s = time.monotonic()
                time.sleep(LOOK_S)
            served = watch.wait_for_successor()
            kills = group.oom_kills()
        return watch.landing(
            has_landed=kills > 0,
            evidence=f"oom_kill of its cgroup is {kills}, worker {worker.pid} is dead, "
            f"worker {served.owner_pid} serves",
            served_ns=served.first_publish_ns,
            workers_killed=1,
            kernel_lines=OOM_REPORT,
        )


def _drop_page_cache(site: Site) -> None:
    for path in site.device.lowers:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
