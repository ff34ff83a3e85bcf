"""scaleexp: how many workers, what batch size, what learning rate, and where adding more stops paying."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("scaleexp")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"
