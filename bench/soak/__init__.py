"""Point in time for hours: a database at work, a receiver that is killed, a bucket that fails."""
