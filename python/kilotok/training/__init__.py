"""Training tools: MXFP4 conversion, quantisation-aware training, DFlash drafters.

Modules that train import PyTorch (``pip install "kilotok[train]"``); conversion and its codec need
numpy and safetensors alone. Nothing is imported here, so that each command loads what it uses.
"""
