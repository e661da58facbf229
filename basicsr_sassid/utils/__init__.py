"""Errors, option blocks, registries, devices and sequences, for every other package."""
