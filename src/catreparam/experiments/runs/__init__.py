"""What all studies share: run folders, cells, configs, work side by side, progress, seeds, statistics. Imports no study."""
