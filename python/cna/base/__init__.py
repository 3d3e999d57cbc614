"""What everything stands on: errors, files, hashes, progress, HTML blocks, names."""
