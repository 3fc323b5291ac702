"""Where estimators meet training frameworks: Lightning callbacks, gradient variance. Imports schedules."""
