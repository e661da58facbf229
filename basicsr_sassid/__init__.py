"""Self-supervised denoising of real photographs, as a plugin of BasicSR: importing it registers its parts."""
__version__ = '0.1.0'

from basicsr_sassid import _compat  # noqa: F401  before anything of basicsr

from basicsr_sassid import archs, data, losses, metrics, models  # noqa: F401  isort:skip
from basicsr_sassid.clean import clean_photos, train_on
from basicsr_sassid.inference import Denoiser
from basicsr_sassid.noise import Noise, SpectralDenoiser, estimate_noise
from basicsr_sassid.weights import load_weights

__all__ = ['Denoiser', 'Noise', 'SpectralDenoiser', 'clean_photos', 'estimate_noise', 'load_weights', 'train_on']
