"""`sassid demo`: the whole method within minutes, on simulated or real photographs, and a comparison."""

from basicsr_sassid.demo.comparison import NLM_STRENGTHS
from basicsr_sassid.demo.photographs import Denoise, Pairs, mean_psnr, read_pairs, simulate_photographs
from basicsr_sassid.demo.run import MINUTES, SIMULATED_NETWORKS, run_demo

__all__ = [
    'MINUTES',
    'NLM_STRENGTHS',
    'SIMULATED_NETWORKS',
    'Denoise',
    'Pairs',
    'mean_psnr',
    'read_pairs',
    'run_demo',
    'simulate_photographs',
]
