"""Our figure, the reference's and their ratio, from one run on one machine."""
