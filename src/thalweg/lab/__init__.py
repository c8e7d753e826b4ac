"""The lab: races optimizers against each other on real data and writes what came of it.

Nothing here is imported by ``import thalweg``; the command line loads it when it is asked for, because it
needs the ``lab`` extra.
"""

from thalweg.lab.tasks import Problem, Task

__all__ = ["Problem", "Task"]
