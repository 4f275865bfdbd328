"""What survives a process: runs and their events, in SQLite."""
