"""Hand-written training kernels, each with the plain reference it must equal (tests/kernels/test_kernels.py)."""
