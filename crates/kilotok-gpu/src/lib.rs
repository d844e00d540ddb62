//! kilotok-gpu
