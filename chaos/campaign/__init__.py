"""A campaign: workloads on devices, faults from a seed, a verdict that does not depend on us."""
