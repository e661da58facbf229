from basicsr_sassid.noise.estimate import Noise, estimate_noise
from basicsr_sassid.noise.spectral import SpectralDenoiser

__all__ = ['Noise', 'SpectralDenoiser', 'estimate_noise']
