"""From a network's description to a plan of fused steps."""
