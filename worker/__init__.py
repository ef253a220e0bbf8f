"""The background processes: they act on the world, and never import the web process.

==========  =====================================================================================
scheduler   puts the slots of the schedule onto the queue, with schedule, recovery and watch
pool        the check workers, as many as are wanted; rqconfig and preload are for every worker
jobs        all that RQ calls; snapshots and heartbeat are the small ones
checks      what a check job does
probe       the exchange with a target
alerts      what people are told, and how it reaches them
supervisor  all processes in one terminal, with an embedded valkey; lifeline ties them together
alive       whether one of them gives signs of life
==========  =====================================================================================
"""
