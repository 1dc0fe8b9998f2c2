"""Bundles as a page: a static folder that computes in the browser, and how it is served and proven."""
