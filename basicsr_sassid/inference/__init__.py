from basicsr_sassid.inference.denoiser import Denoiser

__all__ = ['Denoiser']
