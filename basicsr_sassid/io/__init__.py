"""Reading and writing of files: photographs, weights, MATLAB arrays, LMDBs; atomic writes."""
