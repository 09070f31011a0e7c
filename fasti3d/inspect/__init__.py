"""What a machine and a plan do, and how fast: doctor, plan report, tuning, rooflines."""
