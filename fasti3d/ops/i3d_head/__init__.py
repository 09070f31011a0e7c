"""The network's head: average pool, 1x1x1 classifier, mean over time, as one pass over the last map."""
