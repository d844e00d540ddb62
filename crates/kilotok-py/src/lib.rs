//! kilotok-py
