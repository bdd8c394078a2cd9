"""Files: folders and buckets, atomic writes, checksums, manifests, JSON lines, locks."""
