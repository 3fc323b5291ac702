"""Where the estimators meet training frameworks: Lightning callbacks, the variance of gradients in a training loop."""
