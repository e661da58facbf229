"""The weights in the package: a small student, trained on noisy photographs of smartphones alone."""

from __future__ import annotations

from pathlib import Path

# its card stands beside it, README.md; ablations/ready_weights.py trained it
READY_WEIGHTS = Path(__file__).resolve().parents[1] / 'weights' / 'student_sidd.safetensors'
