"""The hot operations, one folder each.

`reference.py` is slow and obvious, `eager.py` is plain torch and always works, `cpu.py` calls the C++ beside it, which
`native` compiles on first use, and `triton.py` holds kernels for GPUs. Each `__init__.py` picks; ECO_KERNELS has a say.
"""
