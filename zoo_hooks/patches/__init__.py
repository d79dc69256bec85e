"""One package for each upstream, one module for each bug."""
