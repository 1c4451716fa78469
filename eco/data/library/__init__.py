"""A library: a folder of documents with metadata, checksums and a manifest, which `library:DIR` reads."""
