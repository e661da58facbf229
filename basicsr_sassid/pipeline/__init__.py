"""`sassid clean`: a folder of noisy photographs -> denoised photographs and a report."""
