"""`sassid benchmark` and `sassid submit`: methods side by side in one table, files for the servers of SIDD and DND."""
