"""Real files -> LMDBs in BasicSR's format, a module a source."""
