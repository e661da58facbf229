"""What every other package may use: errors, option blocks, registries, devices, sequences."""
