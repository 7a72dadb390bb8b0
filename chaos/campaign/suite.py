"""The campaigns of ``make chaos``: what each is asked to do, in two lengths."""

from __future__ import annotations

__all__ = ["suite"]

DEFAULT = (
    "--provider load --kills 2000 --faults all --overlap 10",
    "--provider fuse --kills 100 --faults all --overlap 30 --workloads {host}",
    "--provider tcmu --where guest --kernel 6.1 --kills 50 --workloads {guest} "
    "--faults worker-kill,both-kill,supervisor-kill,adopt,release,quarantine --overlap 20",
)
LONG = (
    "--provider load --kills 10000 --faults all --overlap 10",
    "--provider load --hooks --kills 1000 --faults worker-segv,recovery-point,handover-point",
    "--provider fuse --kills 1000 --faults all --overlap 10 --workloads {host}",
    "--provider fuse --runtime containerd --kills 200 --faults all --workloads {host}",
    "--provider tcmu --where guest --kernel 6.1 --kills 200 --faults all --overlap 10 "
    "--workloads {guest}",
    "--provider tcmu --where guest --kernel 6.12 --runtime containerd --kills 200 --faults all "
    "--workloads {guest}",
)


def suite(seed: int, host: str, guest: str, *, is_long: bool) -> list[list[str]]:
    """The options of each campaign; their seeds follow from the one given.

    Args:
        host: names of the workloads on this host's devices, separated by commas.
        guest: those in the guest, which is slow: few.
    """
    campaigns = []
    for number, text in enumerate(LONG if is_long else DEFAULT):
        words = text.format(host=host, guest=guest).split()
        campaigns.append([*words, "--seed", str(seed + number)])
    return campaigns
