"""What all studies share: run folders, cells, configs, processes side by side, progress, seeds, statistics. Imports no study."""
