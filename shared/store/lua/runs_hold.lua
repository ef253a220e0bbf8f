-- KEYS: the signs, the run's work. ARGV: run, ms until its next sign, ms to keep it, number, piece of work.
hold(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
