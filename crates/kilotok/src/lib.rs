//! kilotok
