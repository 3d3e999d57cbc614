"""What everything stands on: errors, checks, files, hashes, progress, HTML blocks, names."""
