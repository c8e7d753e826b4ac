"""Kernels for an accelerator, written in Triton from recorded graphs: one launch takes all tensors of a family.

Next to inductor's, which take eight tensors a launch: a step of a model with hundreds of tensors is one launch a
barrier and one for the update, whatever their shapes. Formulas that work on elements, with totals of tensors, groups or
the model, come here; those that reduce along axes or see whole matrices stay with inductor.
"""

from thalweg.engine.triton.chunk import chunks, kernel, key, source

__all__ = ["chunks", "kernel", "key", "source"]
