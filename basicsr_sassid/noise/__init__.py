from basicsr_sassid.noise.estimate import Noise, estimate_noise

__all__ = ['Noise', 'estimate_noise']
