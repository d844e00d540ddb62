"""Makes the demo checkpoint: a small MiMo-V2-shaped MXFP4 model with a DFlash drafter."""
