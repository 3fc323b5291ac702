"""`catreparam run vae`: categorical VAEs trained with any estimator."""
