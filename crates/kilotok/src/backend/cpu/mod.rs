//! The CPU backend: the oracle for every kernel, and the engine where there is no GPU.
