"""What the noise of photographs is like, from the noisy photographs alone."""
