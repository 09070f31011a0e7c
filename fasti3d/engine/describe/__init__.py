"""What a module computes, as a graph: a description of a network family matches exactly, or says why not."""
