"""What is compared. Nothing is imported here: each job of the plain way imports this package anew."""
