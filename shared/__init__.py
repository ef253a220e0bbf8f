"""What the web process and the background processes must agree on."""
