"""What every part may use: files, resumable output, names, warnings, prefetching."""
