"""Image libraries, manifests, splits, and the way from a file to a tensor."""
