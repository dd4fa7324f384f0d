"""The highest load, or the fewest GPUs, within a target."""
