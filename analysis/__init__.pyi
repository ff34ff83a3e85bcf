from analysis.read import load as load
from analysis.study import analyse as fit

__all__ = ["fit", "load"]
