"""Preparation of published datasets and of folders: image files to LMDBs in BasicSR's format, one module per source."""
