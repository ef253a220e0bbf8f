"""What a check job does: targets out of the store into the probe, and their results into the store.

======  ===========================================================================================
batch   one run: it takes jobs while it has time, and records what is finished while others still hang
ledger  what a run has in hand, written down for whoever takes it up should the run vanish
canary  whose fault it is when most of a batch fails at once
quiet   which targets are in a maintenance now
meter   what a run costs
trial   one check of a target that is not stored
======  ===========================================================================================
"""
