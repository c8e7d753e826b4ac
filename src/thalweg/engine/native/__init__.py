"""Kernels for the CPU in C++ of our own: written from recorded graphs, compiled in a third of a second, kept on disk.

Next to inductor's, which they replace on a CPU: one kernel takes any number of tensors of any size, small ones cost it
next to nothing, a first step costs no import of a compiler, and codes of small state are looked up in registers.
"""

from thalweg.engine.native.chunk import chunks, kernel, key, source

__all__ = ["chunks", "kernel", "key", "source"]
