"""Noise of photographs, estimated from the noisy photographs alone: model, estimate, survey, posterior, figure."""
