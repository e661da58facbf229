"""Networks of this package in other programs."""
