"""Speed and memory, measured against peers in the same run. See results/README.md."""
