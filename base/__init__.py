"""What every package stands on: files, command lines, TOML, progress. Knows nothing of vchat."""
