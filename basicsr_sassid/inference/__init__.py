"""(H, W, C) array -> denoised array: trained networks, the spectral denoiser, their blend."""
