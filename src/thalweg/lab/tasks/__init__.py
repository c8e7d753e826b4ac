"""What a race trains: `Task` and `Problem`, and the built-in tasks, a file for each kind of data.

The protocol is small on purpose, so that a user's own model can race by adding one function to a file:
see docs/tasks.md and examples/race_my_model.py. Tasks are found by name in `thalweg.lab.loading`.
"""

from thalweg.lab.tasks.base import Problem, Task

__all__ = ["Problem", "Task"]
