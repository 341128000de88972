"""First stages: one file per published autoencoder, named after it, and the demo's."""
