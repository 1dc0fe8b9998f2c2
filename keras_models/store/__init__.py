"""Models on disk and on the Hub: finding, downloading, loading and saving them."""
