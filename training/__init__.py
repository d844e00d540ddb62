"""Training code. Needs PyTorch; the `kilotok` package itself does not."""
