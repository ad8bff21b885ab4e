"""Hand-written training kernels, each with the plain reference it must equal (tests/test_kernels.py)."""
