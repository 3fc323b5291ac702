"""What all studies share: run folders, cells, configs, parallel work, progress, seeds, statistics. Imports no study."""
