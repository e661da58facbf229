"""The field's tables: submissions, methods side by side."""
from basicsr_sassid.benchmark.runner import run_benchmark

__all__ = ['run_benchmark']
