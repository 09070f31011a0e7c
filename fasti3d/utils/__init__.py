"""What every part may use and no part owns: names, files, warnings, prefetching."""
