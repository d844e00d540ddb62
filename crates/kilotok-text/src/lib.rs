//! kilotok-text
