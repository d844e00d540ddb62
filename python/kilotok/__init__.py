"""Fast inference for MXFP4 mixture-of-experts models with DFlash speculative decoding."""

from kilotok._core import __version__

__all__ = ["__version__"]
