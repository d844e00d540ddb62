//! kilotok-kernels
