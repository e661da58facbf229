"""The public functions of the pipeline."""
from basicsr_sassid.pipeline.run import clean_photos, fit_denoiser

__all__ = ['clean_photos', 'fit_denoiser']
