"""Labeled videos: data sets in their published layouts, lists and folders."""
