"""The background processes: they act on the world, and never import the web process."""
