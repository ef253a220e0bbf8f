"""What a check costs on this machine: CPU, not wall time, and as ratios within one run, for machines differ."""
