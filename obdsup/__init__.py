"""obdsup serves overlaybd container images as block devices through processes that may die."""

__version__ = "0.1.0"
